"""What `fuseray plan` shows: all checks and estimates for a run that has not started, on a cluster or on this machine.

`fuseray plan --help` loads this file, so what is slow to import is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.findings import Finding, failed, passed, warned, with_timeout
from orchestrator.config.cluster import Cluster
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import read_prices
from orchestrator.plan.observations import Observations, measure_model
from orchestrator.plan.profile_inputs import cpus_here
from workloads.contract import WorkloadError

if TYPE_CHECKING:
    from orchestrator.plan.checks import PreflightResult
    from orchestrator.plan.estimates import PastSpeed

MFU = 0.25
"""Model FLOPs utilization that is assumed when nothing was measured: a cautious guess, confirmed on no GPU."""

STORAGE_TIMEOUT_S = 20.0

Findings = tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightOptions:
    """What a user may say about a plan.

    Args:
        mfu: model FLOPs utilization (MFU): the share of a GPU's peak that training is assumed to reach.
        samples_per_s: of one worker, as measured; overrides `mfu`.
        samples: plan as if the training data had so many samples.
        prices: a price table that extends the project's.
        resume: whether the recipe's run is resumed, so that its own log says how fast it is.
        from_cluster: what `fuseray plan --here --json` printed on a machine of the cluster.
        quiet: print nothing while measuring.
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
    """The findings and estimates for a run.

    Args:
        findings: of all checks.
        observations: what was measured.
        result: what follows for the cluster; None when only one machine was checked.
        about: the recipe and the cluster in a few words.
    """

    findings: Findings
    observations: Observations
    result: PreflightResult | None
    about: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether no finding is an error, which would have to be fixed before the run can start."""
        return all(finding.level != "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        values: dict[str, Any] = {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}
        values["observations"] = self.observations.to_json()
        if self.result is not None:
            values |= {"steps": self.result.steps, "samples": self.result.samples}
            values["scenarios"] = [asdict(scenario) for scenario in self.result.scenarios]
        return values


def run_preflight(resolved: ResolvedRecipe, cluster: Cluster, options: PreflightOptions) -> Preflight:
    """Check from this machine what a run needs, and estimate it on a cluster.

    Args:
        resolved: the recipe.
        cluster: the cluster.
        options: what the user says about it.

    Raises:
        ConfigError: the price table is wrong.
    """
    return preflight_and_result(resolved, cluster, options)[0]


def preflight_and_result(
    resolved: ResolvedRecipe, cluster: Cluster, options: PreflightOptions
) -> tuple[Preflight, PreflightResult]:
    """Return the preflight of `run_preflight`, and its result, which is never None here."""
    from orchestrator.plan.checks import Assumptions, preflight_result

    prices = read_prices(options.prices)
    findings, observations = observe(resolved, cluster.kind == "local", options)
    assumptions = Assumptions(options.mfu, options.samples_per_s, cpus_here())
    result = preflight_result(resolved, cluster, prices, observations, assumptions)
    about = {"cluster": f"{cluster.name} ({cluster.file.name})", "prices": f"{prices.as_of:%-d %B %Y}"}
    return Preflight((*result.findings, *findings), observations, result, _about(resolved) | about), result


def run_here(resolved: ResolvedRecipe, options: PreflightOptions) -> Preflight:
    """Check this machine as one of the cluster's: which services it reaches, and what the model needs."""
    from orchestrator.cluster.doctor.gpu import check_gpu_here
    from orchestrator.plan.checks import check_batch

    recipe = resolved.recipe
    findings, observations = observe(resolved, True, options)
    gpu = check_gpu_here(recipe.precision == "bfloat16") if recipe.scale.use_gpu else ()
    return Preflight((*check_batch(resolved), *gpu, *findings), observations, None, _about(resolved))


def observe(
    resolved: ResolvedRecipe, on_training_machine: bool, options: PreflightOptions
) -> tuple[Findings, Observations]:
    """Check the services in background threads while the model is measured in this one.

    Args:
        resolved: the recipe.
        on_training_machine: whether this is a machine that trains.
        options: what the user says; may hold what a machine of the cluster has measured.

    Returns:
        The findings, and the measurements.
    """
    from orchestrator.plan.reachability import ReachabilityChecks

    checks = ReachabilityChecks(resolved, on_training_machine)
    findings, observations = _from_cluster(options)
    if on_training_machine:
        findings += _check_files(resolved, options.resume)
    findings += _model(resolved)
    if observations.footprint is None:
        with _status(options.quiet):
            model_findings, measured = measure_model(resolved)
        findings, observations = findings + model_findings, observations.completed_by(measured)
    reachability = checks.result()
    observations = observations.completed_by(Observations(epoch_samples=reachability.epoch_samples))
    length_findings, observations = _with_length(resolved, observations, options)
    return (*findings, *reachability.findings, *length_findings), observations


def _check_files(resolved: ResolvedRecipe, resume: bool) -> Findings:
    """Look at the files that the workload's keys name, as a run on this machine would before it starts."""
    from orchestrator.train.plan import file_problems

    if find_spec("torch") is None:
        return ()
    fix = "Correct the recipe, or bring the file to the machines that train."
    problems = file_problems(resolved, pretrained=resolved.recipe.start is None and not resume)
    return tuple(failed("files", f"{problem.key}: {problem.message}", fix) for problem in problems)


def _model(resolved: ResolvedRecipe) -> Findings:
    """Return what the workload says of the model, which needs torch and what it is made with."""
    from orchestrator.train.plan import model_description

    if find_spec("torch") is None:
        return ()
    try:
        return tuple(passed("model", line) for line in model_description(resolved))
    except WorkloadError as error:
        return (failed("model", str(error), "Correct the recipe."),)


def _about(resolved: ResolvedRecipe) -> dict[str, str]:
    recipe = resolved.recipe
    fewest, most = recipe.scale.min_workers, recipe.scale.max_workers
    device = "GPU" if recipe.scale.use_gpu else "CPU"
    workers = f"{fewest} to {most}" if fewest != most else str(fewest)
    return {"run": f"{recipe.name} ({recipe.workload}, {recipe.precision}) on {workers} {device} workers"}


def _from_cluster(options: PreflightOptions) -> tuple[Findings, Observations]:
    """Return what a machine of the cluster has found, under names that say so."""
    output = options.from_cluster or {}
    findings = [Finding(**values) for values in output.get("findings", ())]
    renamed = tuple(
        replace(finding, name=f"{finding.name}, from the cluster") for finding in findings if finding.name != "batch"
    )
    return renamed, Observations.from_json(output.get("observations", {}))


def _status(quiet: bool) -> AbstractContextManager[object]:
    from rich.console import Console

    return nullcontext() if quiet else Console(stderr=True).status("measuring the model and checking services")


def _with_length(
    resolved: ResolvedRecipe, observations: Observations, options: PreflightOptions
) -> tuple[Findings, Observations]:
    """Add how long the run is, as far as that is known, and how much of it a resumed run has done."""
    findings: Findings = ()
    if options.samples is not None:
        observations = replace(observations, epoch_samples=options.samples)
    elif observations.epoch_samples is None and resolved.recipe.length.steps is None:
        fix = "Give --samples N to plan as if the training data had so many."
        findings = (warned("length", "steps, hours and cost are unknown: the training data was not read", fix),)
    if options.resume:
        past_findings, past = _past_speed(resolved)
        findings += past_findings
        if past is not None:
            observations = replace(
                observations,
                done_steps=past.next_step,
                past_samples_per_s=past.samples_per_s,
                past_workers=past.workers,
            )
    return findings, observations


def _past_speed(resolved: ResolvedRecipe) -> tuple[Findings, PastSpeed | None]:
    """Return what the log of the recipe's own run says."""
    from orchestrator.plan.estimates import past_speed
    from orchestrator.storage.location import locate
    from orchestrator.storage.run_folder import RunFolder

    recipe = resolved.recipe
    uri = f"{recipe.storage.uri}/{recipe.name}"
    try:
        past = with_timeout(
            STORAGE_TIMEOUT_S, lambda: past_speed(RunFolder(locate(uri, recipe.storage.endpoint)), recipe.scale)
        )
    except (FuserayError, TimeoutError) as error:
        fix = "Nothing, if the cluster can; the plan is then for a new run."
        return (warned("resume", f"{uri}: its log cannot be read from here: {error}", fix),), None
    speed = f", {past.samples_per_s:,.0f} samples/s in its newest steps" if past.samples_per_s else ""
    return (passed("resume", f"{uri}: resumes at step {past.next_step:,}{speed}"),), past
