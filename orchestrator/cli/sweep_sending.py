"""Submitting a sweep to a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.finding_jobs import open_cluster
from orchestrator.cli.sending_jobs import Look, Sending, follow_job, on_cluster, price_text, refuse_errors
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.sweep import ResolvedSweep

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.submit import Submission
    from orchestrator.config.cluster import Cluster


def send_sweep(
    sweep: ResolvedSweep,
    file: Path,
    overrides: Sequence[str],
    cluster_file: Path,
    prices: Path | None,
    detach: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Submit a sweep as a job, which continues it if it is there, and follow the job.

    Args:
        sweep: the sweep.
        file: the sweep's file.
        overrides: what the command line laid over it.
        cluster_file: the cluster's file.
        prices: a table of prices of the user's own.
        detach: whether to leave as soon as the job is submitted.
        yes: whether machines that cost money may be started without asking.
        as_json: whether scripts read along.

    Raises:
        SpecError: something has to be mended first; nothing was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    cluster, launcher = open_cluster(cluster_file)
    resolved = on_cluster(sweep.recipe({}), cluster)
    submission = _submission(sweep, resolved, file, overrides, cluster, prices)
    check = partial(_check, sweep, cluster, prices)
    Sending(cluster=cluster, launcher=launcher, submission=submission, check=check).send(yes)
    follow_job(submission.entry, detach, as_json)


def _check(sweep: ResolvedSweep, cluster: Cluster, prices: Path | None, look: Look) -> None:
    from orchestrator.cli.preflight import PreflightOptions
    from orchestrator.cli.sweep_plan import plan_sweep, show_sweep_plan

    planned = plan_sweep(sweep, cluster, PreflightOptions(prices=prices, from_cluster=look))
    with redirect_stdout(sys.stderr):
        show_sweep_plan(planned)
    refuse_errors(planned.ok)


def _submission(
    sweep: ResolvedSweep,
    resolved: ResolvedRecipe,
    file: Path,
    overrides: Sequence[str],
    cluster: Cluster,
    prices: Path | None,
) -> Submission:
    from orchestrator.cluster.jobs.package import RECIPE_NAME
    from orchestrator.cluster.jobs.portability import refuse_secrets
    from orchestrator.cluster.jobs.submit import Submission, new_entry
    from orchestrator.config.cluster import growth_variable
    from orchestrator.sweep.stored import plain_yaml

    refuse_secrets(overrides, resolved.values())
    spec = sweep.sweep.model_dump(mode="json") | {"recipe": RECIPE_NAME, "overrides": {"scale.address": "auto"}}
    return Submission(
        entry=new_entry(cluster, resolved.recipe, file, "sweep"),
        recipe=_base(sweep, resolved),
        workload=resolved.recipe.workload,
        prices=price_text(prices),
        sweep=plain_yaml(spec),
        machines=growth_variable(cluster.groups),
    )


def _base(sweep: ResolvedSweep, resolved: ResolvedRecipe) -> str:
    """Return the recipe that trials share, with its places as they are meant on the cluster."""
    from orchestrator.sweep.stored import plain_yaml

    written, meant = sweep.base.plain().keys() | {"storage", "tracking"}, resolved.values()
    return plain_yaml({key: value for key, value in meant.items() if key in written})
