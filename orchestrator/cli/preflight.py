"""Everything that is looked at before a run is submitted, put together: what `fuseray plan` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.config.cluster import Cluster
from orchestrator.config.loading import ResolvedRecipe

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding
    from orchestrator.cluster.preflight.judging import Judgement
    from orchestrator.cluster.preflight.observations import Observations
    from orchestrator.config.prices import PriceTable

MFU = 0.25
"""Share of a GPU's peak that is assumed when nothing was measured: on the careful side, no GPU has confirmed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightOptions:
    """What a user may say about a plan.

    Args:
        mfu: share of a GPU's peak that training is assumed to reach.
        samples_per_s: of one worker, as measured; in the place of that assumption.
        samples: plan as if the training data had so many samples.
        prices: a price table over the one of the project.
        resume: whether the recipe's run goes on, so that its own log says how fast it is.
        from_cluster: what `fuseray plan --here --json` printed on a machine of the cluster.
        quiet: print nothing while looking.
    """

    mfu: float = MFU
    samples_per_s: float | None = None
    samples: int | None = None
    prices: Path | None = None
    resume: bool = False
    from_cluster: Mapping[str, Any] | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Preflight:
    """A plan with all that was found.

    Args:
        findings: of all checks.
        observations: what was measured.
        judgement: what follows for the cluster; None when only one machine was looked at.
        about: the recipe and the cluster in a few figures.
    """

    findings: tuple[Finding, ...]
    observations: Observations
    judgement: Judgement | None
    about: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended before the run can start."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values: dict[str, Any] = {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}
        values["observations"] = self.observations.to_json()
        if self.judgement is not None:
            values |= {"steps": self.judgement.steps, "samples": self.judgement.samples}
            values["scenarios"] = [asdict(one) for one in self.judgement.scenarios]
        return values


def run_preflight(resolved: ResolvedRecipe, cluster: Cluster, options: PreflightOptions) -> Preflight:
    """Look at what a run needs, from this machine, and work out what to expect of it on a cluster.

    Args:
        resolved: the recipe.
        cluster: the cluster.
        options: what the user says about it.

    Raises:
        SpecError: the price table is wrong.
    """
    return judged_preflight(resolved, cluster, options)[0]


def judged_preflight(
    resolved: ResolvedRecipe, cluster: Cluster, options: PreflightOptions
) -> tuple[Preflight, Judgement]:
    """Return what `run_preflight` does, and by itself what follows for the cluster."""
    from orchestrator.cli.observing import observe
    from orchestrator.cluster.preflight.judging import Assumptions, judge
    from orchestrator.train.footprint.preparing import cpus_here

    prices = _prices(options.prices)
    findings, seen = observe(resolved, cluster.kind == "local", options)
    judgement = judge(resolved, cluster, prices, seen, Assumptions(options.mfu, options.samples_per_s, cpus_here()))
    about = {"cluster": f"{cluster.name} ({cluster.file.name})", "prices": f"{prices.as_of:%-d %B %Y}"}
    return Preflight((*judgement.findings, *findings), seen, judgement, _about(resolved) | about), judgement


def run_here(resolved: ResolvedRecipe, options: PreflightOptions) -> Preflight:
    """Look at this machine as one of the cluster's: what it reaches, and what the model takes."""
    from orchestrator.cli.observing import observe
    from orchestrator.cluster.doctor.gpu import check_gpu_here
    from orchestrator.cluster.preflight.batch import check_batch

    recipe = resolved.recipe
    findings, seen = observe(resolved, True, options)
    gpu = check_gpu_here(recipe.precision == "bfloat16") if recipe.scale.use_gpu else ()
    return Preflight((*check_batch(resolved), *gpu, *findings), seen, None, _about(resolved))


def show_preflight(preflight: Preflight, as_json: bool) -> None:
    """Print a plan: tables for people, JSON for scripts."""
    if as_json:
        click.echo(json.dumps(preflight.to_json(), indent=2, default=str))
        return
    from orchestrator.cli.preflight_tables import show_tables

    show_tables(preflight)


def _prices(override: Path | None) -> PriceTable:
    from orchestrator.config.prices import read_prices

    return read_prices(override)


def _about(resolved: ResolvedRecipe) -> dict[str, str]:
    recipe = resolved.recipe
    fewest, most = recipe.scale.fewest_workers, recipe.scale.most_workers
    device = "GPU" if recipe.scale.use_gpu else "CPU"
    workers = f"{fewest} to {most}" if fewest != most else str(fewest)
    return {"run": f"{recipe.name} ({recipe.workload}, {recipe.precision}) on {workers} {device} workers"}
