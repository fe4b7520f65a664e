"""Measuring and looking before a run: at services in the background, at the model in the foreground."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe

if TYPE_CHECKING:
    from orchestrator.cli.preflight import PreflightOptions
    from orchestrator.cluster.findings import Finding
    from orchestrator.cluster.preflight.observations import Observations
    from orchestrator.train.footprint.preparing import Prepared
    from orchestrator.train.past_speed import PastSpeed

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
    from orchestrator.cluster.preflight.observations import Observations
    from orchestrator.cluster.preflight.reach import Reaching

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
    from orchestrator.cluster.preflight.observations import Observations

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
    from orchestrator.cluster.preflight.observations import Observations
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
    from orchestrator.train.footprint.preparing import NotMeasuredError, prepare

    if find_spec("torch") is None:
        raise NotMeasuredError("torch is not installed on this machine")
    import torch  # noqa: F401 - so that the wait below is for files and hubs alone

    return within(PATIENCE_S, lambda: prepare(resolved))


def _footprint(resolved: ResolvedRecipe, prepared: Prepared, seen: Observations) -> tuple[Found, Observations]:
    from orchestrator.cluster.doctor.examine import spare_memory_bytes
    from orchestrator.cluster.findings import passed
    from orchestrator.train.footprint.measuring import measure_footprint

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
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import RunFolder
    from orchestrator.train.past_speed import past_speed

    recipe = resolved.recipe
    uri = f"{recipe.storage.uri}/{recipe.name}"
    try:
        past = within(PATIENCE_S, lambda: past_speed(RunFolder(locate(uri, recipe.storage.endpoint)), recipe.scale))
    except (FuserayError, TimeoutError) as error:
        fix = "Nothing, if the cluster can; the plan is then for a new run."
        return (warned("resume", f"{uri}: its log cannot be read from here: {error}", fix),), None
    speed = f", {past.samples_per_s:,.0f} samples/s of late" if past.samples_per_s else ""
    return (passed("resume", f"{uri}: goes on at step {past.next_step:,}{speed}"),), past
