"""Whether this machine reaches the services a run needs: storage, credentials, data and MLflow, all checked at once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from orchestrator.cluster.doctor.python_env import REINSTALL
from orchestrator.cluster.doctor.services import (
    SERVICE_TIMEOUT_S,
    check_credentials,
    check_storage,
    check_tracking,
    credentials_provider,
)
from orchestrator.cluster.findings import Finding, failed, passed, run_concurrently, warned, with_timeout
from orchestrator.config.commands import command_line
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.plan.checks import PLACEHOLDER_URI
from orchestrator.plan.profile_inputs import offline_config, synthetic_samples
from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import Index, check_shards, read_index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.dataset.shard_folder import locate_shards
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import BadSample, KeyedRandom, Transform, WorkloadError

CLUSTER_CHECKS_AGAIN = "This machine may lack what the cluster's have; they check again before training begins."

TransformFactory = Callable[[], Transform]


@dataclass(frozen=True, slots=True)
class ReachabilityResult:
    """The outcome of all checks.

    Args:
        findings: of all checks.
        epoch_samples: training samples of all data sets; None when one cannot be read.
    """

    findings: tuple[Finding, ...]
    epoch_samples: int | None


class ReachabilityChecks:
    """Checks that run in background threads from construction on.

    Args:
        resolved: the recipe.
        on_training_machine: whether this is a machine that trains; otherwise errors become warnings, local paths are
            not looked up, and nothing is written.
    """

    def __init__(self, resolved: ResolvedRecipe, on_training_machine: bool) -> None:
        self._on_training_machine = on_training_machine
        recipe = resolved.recipe
        train = [source.uri for source in recipe.data.sets if source.uri != PLACEHOLDER_URI]
        self._complete = len(train) == len(recipe.data.sets) and all(map(self._reachable, train))
        self._train = self._start_dataset_checks(resolved, train)
        held_out = [recipe.data.held_out] if recipe.data.held_out else []
        self._held_out = self._start_dataset_checks(resolved, held_out)
        self._services = run_concurrently(self._service_checks(resolved))

    def result(self) -> ReachabilityResult:
        """Wait for all checks."""
        services = [finding for future in self._services if (finding := future.result()) is not None]
        train = [future.result() for future in self._train]
        held_out = [future.result() for future in self._held_out]
        findings = [*services, *(finding for dataset in (*train, *held_out) for finding in dataset.findings)]
        counts = [dataset.samples for dataset in train]
        known = [count for count in counts if count is not None]
        total = sum(known) if self._complete and len(known) == len(counts) else None
        return ReachabilityResult(tuple(findings if self._on_training_machine else map(as_warning, findings)), total)

    def _reachable(self, uri: str) -> bool:
        return self._on_training_machine or "://" in uri.removeprefix("file://")

    def _start_dataset_checks(self, resolved: ResolvedRecipe, uris: Sequence[str]) -> list[Future[DatasetCheck]]:
        endpoint = resolved.recipe.storage.endpoint
        offline = (lambda: resolved.entry.transform(offline_config(resolved))) if self._on_training_machine else None
        checks = [
            lambda uri=uri: check_dataset(uri, endpoint, SERVICE_TIMEOUT_S, offline)
            for uri in uris
            if self._reachable(uri)
        ]
        return run_concurrently(checks)

    def _service_checks(self, resolved: ResolvedRecipe) -> list[Callable[[], Finding | None]]:
        recipe = resolved.recipe
        checks: list[Callable[[], Finding | None]] = [lambda: self._check_tracking(recipe.tracking.uri)]
        uri, endpoint = recipe.storage.uri, recipe.storage.endpoint
        if self._on_training_machine:
            checks.append(lambda: check_writable(f"{uri}/{recipe.name}", endpoint, SERVICE_TIMEOUT_S))
            checks.append(lambda: check_transform(resolved, SERVICE_TIMEOUT_S))
        elif self._reachable(uri):
            checks.append(lambda: check_storage(uri, endpoint))
        if any(used.startswith("s3://") for used in (uri, *(source.uri for source in recipe.data.sets))):
            checks.append(lambda: check_credentials(credentials_provider))
        return checks

    def _check_tracking(self, uri: str) -> Finding | None:
        if uri == "environment":
            uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            problem = "tracking.uri is environment, but MLFLOW_TRACKING_URI is not set on this machine"
            return failed("mlflow", problem, "Set the variable where the job runs, or write the address.")
        if not self._on_training_machine and not uri.startswith(("http", "postgres", "mysql", "mssql")):
            return None
        if find_spec("mlflow") is None:
            return warned("mlflow", "not checked here: mlflow is not installed", CLUSTER_CHECKS_AGAIN)
        return check_tracking(uri)


def as_warning(finding: Finding) -> Finding:
    """Return an error as a warning, for a machine that does not train: the cluster's machines may reach the service."""
    if finding.level != "error":
        return finding
    fix = f"{CLUSTER_CHECKS_AGAIN} {finding.fix}"
    return replace(finding, level="warning", found=f"from this machine: {finding.found}", fix=fix)


DATA_NAME = "data"
DECODED_SAMPLES = 4
"""Samples of a data set that are decoded."""


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """The outcome of checking a data set.

    Args:
        findings: at least one.
        samples: that its index counts; None when it cannot be read.
    """

    findings: tuple[Finding, ...]
    samples: int | None = None


def check_dataset(
    uri: str, endpoint: str | None, timeout_s: float, make_transform: TransformFactory | None
) -> DatasetCheck:
    """Read a data set's index, compare it with the shards, and decode some samples.

    Args:
        uri: where the data set is.
        endpoint: address of an S3-compatible server.
        timeout_s: how long to wait for it.
        make_transform: returns a transform that decodes samples and fetches nothing; None to decode none.
    """
    try:
        return with_timeout(timeout_s, lambda: _check_dataset(uri, endpoint, make_transform))
    except FuserayError as error:
        fix = "Check data.* in the recipe, the credentials and the network."
        return DatasetCheck((failed(DATA_NAME, str(error), fix),))
    except TimeoutError as error:
        fix = "Check the address, storage.endpoint and the network (proxy, firewall, VPN)."
        return DatasetCheck((failed(DATA_NAME, f"{uri}: {error}", fix),))


def _check_dataset(uri: str, endpoint: str | None, make_transform: TransformFactory | None) -> DatasetCheck:
    folder = locate_shards(uri, endpoint)
    index = read_index(folder)
    shorter = _shorter_shards(folder, index)
    summary = f"{uri}: {index.total:,} samples in {len(index.shards):,} shards"
    if make_transform is None:
        return DatasetCheck((passed(DATA_NAME, f"{summary}, index readable"), *shorter), index.total)
    contents = [sample.content for sample in read_numbered(folder, index, evenly_spaced(index.total, DECODED_SAMPLES))]
    try:
        transform = make_transform()
        problems = [problem for content in contents if (problem := _decoding_problem(transform, content))]
    except ImportError as error:
        finding = f"{summary}, index readable; {error.name} is not installed to decode any"
        return DatasetCheck((warned(DATA_NAME, finding, REINSTALL), *shorter), index.total)
    except WorkloadError as error:
        fix = "Samples cannot be transformed without it, here or on the cluster."
        return DatasetCheck((failed(DATA_NAME, f"{summary}; {error}", fix), *shorter), index.total)
    return DatasetCheck((_usable_finding(folder, summary, len(contents), problems), *shorter), index.total)


def _usable_finding(folder: Location, summary: str, looked_at: int, problems: Sequence[str]) -> Finding:
    """Return a finding about the samples that were looked at: how many can be used, and what the first other has."""
    usable = f"{summary}; {looked_at - len(problems)} of {looked_at} looked at can be used"
    if not problems and looked_at:
        return passed(DATA_NAME, usable)
    fix = f"Look at all of them: {command_line('shards', 'verify', folder.uri, endpoint=folder.endpoint)}"
    if len(problems) == looked_at:
        return failed(DATA_NAME, f"{usable}{f'; {problems[0]}' if problems else ''}", fix)
    return warned(DATA_NAME, f"{usable}; {problems[0]}", fix)


def _shorter_shards(folder: Location, index: Index) -> list[Finding]:
    fix = "Its lost samples are skipped; index again."
    return [
        warned(DATA_NAME, f"{(folder / name).uri}: is shorter than when it was indexed", fix)
        for name in check_shards(folder, index)
    ]


def _decoding_problem(transform: Transform, content: Content) -> str | None:
    """Return what makes a sample unusable, with its key; None when it can be read and decoded."""
    if isinstance(content, Unreadable):
        return f"{content.key!r}: {content.fault}"
    try:
        transform(content, KeyedRandom((0, "preflight")))
    except BadSample as error:
        return f"{content.key!r}: {error}"
    return None


TRANSFORM_NAME = "transform"


def check_transform(resolved: ResolvedRecipe, timeout_s: float) -> Finding | None:
    """Transform a sample with all that training will fetch for it; None when that is nothing, or cannot be run here.

    Args:
        resolved: the recipe.
        timeout_s: how long to wait for what is fetched.
    """
    if offline_config(resolved) == resolved.workload:
        return None
    fix = "Samples cannot be transformed without it, here or on the cluster."
    try:
        (sample,) = synthetic_samples(1)
        transform = resolved.entry.transform(resolved.workload)
        with_timeout(timeout_s, lambda: transform(sample, KeyedRandom((0, "preflight"))))
    except ImportError:
        return None
    except WorkloadError as error:
        return failed(TRANSFORM_NAME, str(error), fix)
    except TimeoutError as error:
        return failed(TRANSFORM_NAME, f"what it needs from elsewhere could not be fetched: {error}", fix)
    return passed(TRANSFORM_NAME, "all that it needs from elsewhere can be fetched")


STORAGE_NAME = "storage"
PROBE_CONTENT = b"written by fuseray plan to see whether it can; safe to delete\n"


def check_writable(uri: str, endpoint: str | None, timeout_s: float) -> Finding:
    """Write a small object into a folder, read it back and delete it; folders created for it are deleted as well.

    Args:
        uri: the folder.
        endpoint: address of an S3-compatible server.
        timeout_s: how long to wait for it.
    """
    fix = "Check storage.uri, storage.endpoint, and that the machine's credentials may write, read and delete there."
    try:
        with_timeout(timeout_s, lambda: _write_and_delete(locate(uri, endpoint)))
    except (FuserayError, OSError) as error:
        problem = str(error) if uri in str(error) else f"{uri}: {error}"
        return failed(STORAGE_NAME, problem, fix)
    return passed(STORAGE_NAME, f"{uri}: can be written, read and deleted")


def _write_and_delete(folder: Location) -> None:
    created = _missing_folders(folder)
    probe = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        probe.write(PROBE_CONTENT)
        if probe.read() != PROBE_CONTENT:
            raise FuserayError(f"{probe.uri}: does not hold what was just written to it")
    finally:
        probe.delete()
        for path in created:
            path.rmdir()


def _missing_folders(folder: Location) -> list[Path]:
    """Return the folders on a local disk that writing will create, the innermost first; object stores have none."""
    if not folder.is_local:
        return []
    path = Path(folder.path)
    return [ancestor for ancestor in (path, *path.parents) if not ancestor.exists()]
