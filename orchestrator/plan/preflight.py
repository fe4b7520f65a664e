"""Everything that is looked at before a run is submitted, put together: what `fuseray plan` shows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.cluster import Cluster, Footprint
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding
    from orchestrator.config.prices import PriceTable
    from orchestrator.plan.checks import Judgement
    from orchestrator.plan.estimates import PastSpeed
    from orchestrator.plan.profile_inputs import Prepared


# What was measured before a run, on this machine or on one of the cluster's.


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Figures that the estimates start from; None is what nobody could measure.

    Args:
        footprint: the model's memory and arithmetic.
        decode_cpu_s: CPU seconds that decoding and augmenting one sample takes.
        epoch_samples: training samples in one epoch.
        done_steps: steps that are done already.
        past_samples_per_s: how fast the run that goes on was of late.
        past_workers: on how many workers.
        where: the machine that measured.
    """

    footprint: Footprint | None = None
    decode_cpu_s: float | None = None
    epoch_samples: int | None = None
    done_steps: int = 0
    past_samples_per_s: float | None = None
    past_workers: int | None = None
    where: str = "this machine"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Observations:
        """Return what `to_json` returned; figures that this version does not know are left out."""
        known = {field.name for field in fields(Observations)}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("footprint") is not None:
            kept["footprint"] = Footprint(**kept["footprint"] | {"sizes": tuple(kept["footprint"]["sizes"])})
        return Observations(**kept)

    def completed_by(self, other: Observations) -> Observations:
        """Return these figures, with another machine's in the place of those that are missing."""
        missing = {
            field.name: getattr(other, field.name)
            for field in fields(self)
            if getattr(self, field.name) is None and getattr(other, field.name) is not None
        }
        return replace(self, **missing, done_steps=self.done_steps or other.done_steps)


# Everything that is looked at before a run is submitted, put together: what `fuseray plan` shows.


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
        ConfigError: the price table is wrong.
    """
    return judged_preflight(resolved, cluster, options)[0]


def judged_preflight(
    resolved: ResolvedRecipe, cluster: Cluster, options: PreflightOptions
) -> tuple[Preflight, Judgement]:
    """Return what `run_preflight` does, and by itself what follows for the cluster."""
    from orchestrator.plan.checks import Assumptions, judge
    from orchestrator.plan.profile_inputs import cpus_here

    prices = _prices(options.prices)
    findings, seen = observe(resolved, cluster.kind == "local", options)
    judgement = judge(resolved, cluster, prices, seen, Assumptions(options.mfu, options.samples_per_s, cpus_here()))
    about = {"cluster": f"{cluster.name} ({cluster.file.name})", "prices": f"{prices.as_of:%-d %B %Y}"}
    return Preflight((*judgement.findings, *findings), seen, judgement, _about(resolved) | about), judgement


def run_here(resolved: ResolvedRecipe, options: PreflightOptions) -> Preflight:
    """Look at this machine as one of the cluster's: what it reaches, and what the model takes."""
    from orchestrator.cluster.doctor.gpu import check_gpu_here
    from orchestrator.plan.checks import check_batch

    recipe = resolved.recipe
    findings, seen = observe(resolved, True, options)
    gpu = check_gpu_here(recipe.precision == "bfloat16") if recipe.scale.use_gpu else ()
    return Preflight((*check_batch(resolved), *gpu, *findings), seen, None, _about(resolved))


def _prices(override: Path | None) -> PriceTable:
    from orchestrator.config.prices import read_prices

    return read_prices(override)


def _about(resolved: ResolvedRecipe) -> dict[str, str]:
    recipe = resolved.recipe
    fewest, most = recipe.scale.min_workers, recipe.scale.max_workers
    device = "GPU" if recipe.scale.use_gpu else "CPU"
    workers = f"{fewest} to {most}" if fewest != most else str(fewest)
    return {"run": f"{recipe.name} ({recipe.workload}, {recipe.precision}) on {workers} {device} workers"}


# Measuring and looking before a run: at services in the background, at the model in the foreground.


PATIENCE_S = 20.0
"""For storage, and for a tokenizer that is looked up on a hub; torch's import may take as long again."""

Found = tuple["Finding", ...]


def observe(resolved: ResolvedRecipe, at_home: bool, options: PreflightOptions) -> tuple[Found, Observations]:
    """Return what was found, and what was measured, here and on the cluster.

    Args:
        resolved: the recipe.
        at_home: whether this is a machine that trains.
        options: what the user says.
    """
    from orchestrator.plan.reachability import Reaching

    reaching = Reaching(resolved, at_home)
    findings, seen = _from_cluster(options)
    if seen.footprint is None:
        with _status(options.quiet):
            more, here = _measured(resolved)
        findings, seen = findings + more, seen.completed_by(here)
    reached = reaching.result()
    seen = seen.completed_by(Observations(epoch_samples=reached.epoch_samples))
    more, seen = _length(resolved, seen, options)
    return (*findings, *reached.findings, *more), seen


def _from_cluster(options: PreflightOptions) -> tuple[Found, Observations]:
    """Return what a machine of the cluster has found, under names that say so."""
    from orchestrator.cluster.findings import Finding

    known = options.from_cluster or {}
    findings = [Finding(**each) for each in known.get("findings", ())]
    shown = tuple(replace(each, name=f"{each.name}, from the cluster") for each in findings if each.name != "batch")
    return shown, Observations.from_json(known.get("observations", {}))


def _status(quiet: bool) -> AbstractContextManager[object]:
    from rich.console import Console

    return nullcontext() if quiet else Console(stderr=True).status("measuring the model and looking at services")


def _measured(resolved: ResolvedRecipe) -> tuple[Found, Observations]:
    """Return the model's footprint and the cost of decoding, or why they could not be measured."""
    from orchestrator.cluster.findings import warned
    from workloads.contract import WorkloadError

    seen = Observations()
    try:
        prepared = _prepared(resolved)
        seen = replace(seen, decode_cpu_s=prepared.cpu_s)
        return _footprint(resolved, prepared, seen)
    except (FuserayError, WorkloadError, TimeoutError, RuntimeError) as error:  # torch raises RuntimeErrors alone
        fix = "Nothing, if the cluster's machines can: they check it before training begins."
        return (
            warned("model", f"memory and arithmetic are not checked here: {str(error).splitlines()[0]}", fix),
        ), seen


def _prepared(resolved: ResolvedRecipe) -> Prepared:
    from orchestrator.cluster.findings import within
    from orchestrator.plan.profile_inputs import NotMeasuredError, prepare

    if find_spec("torch") is None:
        raise NotMeasuredError("torch is not installed on this machine")
    import torch  # noqa: F401 - so that the wait below is for files and hubs alone

    return within(PATIENCE_S, lambda: prepare(resolved))


def _footprint(resolved: ResolvedRecipe, prepared: Prepared, seen: Observations) -> tuple[Found, Observations]:
    from orchestrator.cluster.doctor.examine import spare_memory_bytes
    from orchestrator.cluster.findings import passed
    from orchestrator.plan.profile_model import measure_footprint

    found = measure_footprint(resolved, prepared, spare_memory_bytes())
    sizes = " and ".join(map(str, found.sizes))
    said = (
        f"{found.trained_bytes / 1e6:,.0f} MB of parameters are trained, {found.kept_bytes / 1e6:,.0f} MB are kept "
        f"beside them; {found.flop_per_sample / 1e9:,.3g} GFLOP a sample; micro-batches of {sizes} ran on the CPU, "
        f"{found.seconds:.0f} s"
    )
    return (passed("model", said),), replace(seen, footprint=found)


def _length(resolved: ResolvedRecipe, seen: Observations, options: PreflightOptions) -> tuple[Found, Observations]:
    """Return how long the run is, as far as that is known, and how far it is already."""
    from orchestrator.cluster.findings import warned

    findings: Found = ()
    if options.samples is not None:
        seen = replace(seen, epoch_samples=options.samples)
    elif seen.epoch_samples is None and resolved.recipe.length.steps is None:
        fix = "Give --samples N to plan as if the training data had so many."
        findings = (warned("length", "steps, hours and cost are unknown: nobody has read the training data", fix),)
    if options.resume:
        more, past = _past(resolved)
        findings += more
        if past is not None:
            seen = replace(
                seen, done_steps=past.next_step, past_samples_per_s=past.samples_per_s, past_workers=past.workers
            )
    return findings, seen


def _past(resolved: ResolvedRecipe) -> tuple[Found, PastSpeed | None]:
    """Return what the log of the recipe's own run says."""
    from orchestrator.cluster.findings import passed, warned, within
    from orchestrator.plan.estimates import past_speed
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import RunFolder

    recipe = resolved.recipe
    uri = f"{recipe.storage.uri}/{recipe.name}"
    try:
        past = within(PATIENCE_S, lambda: past_speed(RunFolder(locate(uri, recipe.storage.endpoint)), recipe.scale))
    except (FuserayError, TimeoutError) as error:
        fix = "Nothing, if the cluster can; the plan is then for a new run."
        return (warned("resume", f"{uri}: its log cannot be read from here: {error}", fix),), None
    speed = f", {past.samples_per_s:,.0f} samples/s of late" if past.samples_per_s else ""
    return (passed("resume", f"{uri}: goes on at step {past.next_step:,}{speed}"),), past
