"""`fuseray evaluate RUN --cluster FILE`: submits the evaluation of a run as a job, and shows what it found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.cluster.job_access import JobRef, connect_to, follow_to_end, log, open_cluster
from orchestrator.cli.cluster.submit import Submitter, on_cluster
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.submit import Submission
    from orchestrator.config.cluster import Cluster
    from orchestrator.config.loading import ResolvedRecipe
    from orchestrator.storage.run_folder import RunFolder


def evaluate_on_cluster(
    run: RunFolder, resolved: ResolvedRecipe, arguments: tuple[str, ...], file: Path, detach: bool, yes: bool
) -> bool:
    """Submit the evaluation of a run, and follow it to its end; exits with the job's code if it failed.

    Args:
        run: the run, which the cluster must reach.
        resolved: its recipe, as it is to be evaluated.
        arguments: of `fuseray evaluate` on the cluster, without the run and Ray's address.
        file: the cluster's file.
        detach: whether to return once the job is submitted.
        yes: whether machines that cost money may be started without asking.

    Returns:
        Whether the evaluation is done; not so after `detach`.

    Raises:
        ConfigError: the run is on this machine alone.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    cluster, launcher = open_cluster(file)
    if cluster.kind != "local" and run.root.is_local:
        raise ConfigError(
            f"{run.root.uri}: is on this machine, where cluster {cluster.name} cannot read it; evaluate it here, or "
            "copy the run's folder to an object store and name it by its URI."
        )
    submission = _submission(run, on_cluster(resolved, cluster), arguments, cluster)
    submitter = Submitter(cluster=cluster, launcher=launcher, submission=submission, check=lambda _: None)
    submitter.submit_without_plan(yes)
    entry = submission.entry
    if detach:
        return False
    job = follow_to_end(JobRef(entry.job, connect_to(entry.cluster_file), entry), to_stderr=True)
    if job.code:
        log(job.failure if job.failure and not job.failure_is_in_log else f"job {entry.job}: exit code {job.code}")
        sys.exit(job.code)
    return True


def _submission(run: RunFolder, resolved: ResolvedRecipe, arguments: tuple[str, ...], cluster: Cluster) -> Submission:
    from orchestrator.cluster.jobs.portability import check_for_secrets
    from orchestrator.cluster.jobs.submit import Submission, evaluation_entry
    from orchestrator.config.cluster import node_groups_variable
    from orchestrator.train.plan import recipe_yaml

    check_for_secrets(arguments, resolved.values())
    return Submission(
        entry=evaluation_entry(cluster, run.root.uri, resolved.recipe.name),
        recipe=recipe_yaml(resolved),
        workload=resolved.recipe.workload,
        evaluate=(run.root.uri, *arguments),
        machines=node_groups_variable(cluster.groups),
    )
