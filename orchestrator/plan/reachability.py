"""Whether this machine reaches what a run needs: storage, credentials, data, MLflow; all at once, with patience."""

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
    PATIENCE_S,
    check_credentials,
    check_storage,
    check_tracking,
    credentials_provider,
)
from orchestrator.cluster.findings import Finding, failed, passed, side_by_side, warned, within
from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe import Recipe
from orchestrator.plan.checks import PLACEHOLDER_URI
from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import check_shards, read_index
from orchestrator.stream.dataset.samples import evenly_spaced
from workloads.contract import BadSample, KeyedRandom, Sample, Transform, WorkloadError

ELSEWHERE = "This machine may lack what the cluster's have; they look again before training begins."


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found.

    Args:
        findings: of all checks.
        epoch_samples: training samples of all data sets; None when one cannot be read.
    """

    findings: tuple[Finding, ...]
    epoch_samples: int | None


class Reaching:
    """Checks that have been started.

    Args:
        resolved: the recipe.
        at_home: whether this is a machine that trains; otherwise faults are warnings, paths are not looked for, and
            nothing is written.
    """

    def __init__(self, resolved: ResolvedRecipe, at_home: bool) -> None:
        self._at_home = at_home
        recipe = resolved.recipe
        train = [one.uri for one in recipe.data.sets if one.uri != PLACEHOLDER_URI]
        self._complete = len(train) == len(recipe.data.sets) and all(map(self._reachable, train))
        self._train = self._data(resolved, train)
        self._held_out = self._data(resolved, [recipe.data.held_out] if recipe.data.held_out else [])
        self._services = side_by_side(self._checks(recipe))

    def result(self) -> Reached:
        """Wait for all checks."""
        services = [finding for future in self._services if (finding := future.result()) is not None]
        train = [future.result() for future in self._train]
        held_out = [future.result() for future in self._held_out]
        findings = [*services, *(finding for seen in (*train, *held_out) for finding in seen.findings)]
        counts = [seen.samples for seen in train]
        known = [count for count in counts if count is not None]
        total = sum(known) if self._complete and len(known) == len(counts) else None
        return Reached(tuple(findings if self._at_home else map(from_afar, findings)), total)

    def _reachable(self, uri: str) -> bool:
        return self._at_home or "://" in uri.removeprefix("file://")

    def _data(self, resolved: ResolvedRecipe, uris: Sequence[str]) -> list[Future[DataSeen]]:
        endpoint = resolved.recipe.storage.endpoint
        transform = (lambda: resolved.entry.transform(resolved.workload)) if self._at_home else None
        looks = [
            lambda uri=uri: look_at_data(uri, endpoint, PATIENCE_S, transform) for uri in uris if self._reachable(uri)
        ]
        return side_by_side(looks)

    def _checks(self, recipe: Recipe) -> list[Callable[[], Finding | None]]:
        checks: list[Callable[[], Finding | None]] = [lambda: self._tracking(recipe.tracking.uri)]
        uri, endpoint = recipe.storage.uri, recipe.storage.endpoint
        if self._at_home:
            checks.append(lambda: check_writable(f"{uri}/{recipe.name}", endpoint, PATIENCE_S))
        elif self._reachable(uri):
            checks.append(lambda: check_storage(uri, endpoint))
        if any(place.startswith("s3://") for place in (uri, *(one.uri for one in recipe.data.sets))):
            checks.append(lambda: check_credentials(credentials_provider))
        return checks

    def _tracking(self, uri: str) -> Finding | None:
        if uri == "environment":
            uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            found = "tracking.uri is environment, but MLFLOW_TRACKING_URI is not set on this machine"
            return failed("mlflow", found, "Set the variable where the job runs, or write the address.")
        if not self._at_home and not uri.startswith(("http", "postgres", "mysql", "mssql")):
            return None
        if find_spec("mlflow") is None:
            return warned("mlflow", "not checked here: mlflow is not installed", ELSEWHERE)
        return check_tracking(uri)


def from_afar(finding: Finding) -> Finding:
    """Return a fault as a warning: what this machine cannot reach, the cluster may."""
    if finding.level != "error":
        return finding
    return replace(
        finding, level="warning", found=f"from this machine: {finding.found}", fix=f"{ELSEWHERE} {finding.fix}"
    )


# Whether the training data can be read, and how much there is of it.


DATA_NAME = "data"
LOOKED_AT = 4
"""Samples of a data set that are decoded."""


@dataclass(frozen=True, slots=True)
class DataSeen:
    """A data set as it was found.

    Args:
        findings: what there is to say.
        samples: that its index counts; None when it cannot be read.
    """

    findings: tuple[Finding, ...]
    samples: int | None = None


def look_at_data(
    uri: str, endpoint: str | None, patience_s: float, transform: Callable[[], Transform] | None
) -> DataSeen:
    """Read a data set's index, compare it with the shards, and decode some samples.

    Args:
        uri: where the data set is.
        endpoint: address of an S3-compatible server.
        patience_s: how long to wait for it.
        transform: makes what decodes samples; None to decode none.
    """
    try:
        return within(patience_s, lambda: _look(uri, endpoint, transform))
    except FuserayError as error:
        return DataSeen(
            (failed(DATA_NAME, str(error), "Check data.* in the recipe, the credentials and the network."),)
        )
    except TimeoutError as error:
        fix = "Check the address, storage.endpoint and the network (proxy, firewall, VPN)."
        return DataSeen((failed(DATA_NAME, f"{uri}: {error}", fix),))


def _look(uri: str, endpoint: str | None, transform: Callable[[], Transform] | None) -> DataSeen:
    folder = locate(uri, endpoint)
    index = read_index(folder)
    shorter = check_shards(folder, index)
    found = f"{uri}: {index.total:,} samples in {len(index.shards):,} shards"
    findings = [
        warned(
            DATA_NAME,
            f"{uri}/{name}: is shorter than when it was indexed",
            "Its lost samples are skipped; index again.",
        )
        for name in shorter
    ]
    if transform is None:
        return DataSeen((passed(DATA_NAME, f"{found}, index readable"), *findings), index.total)
    samples = list(evenly_spaced(folder, index, LOOKED_AT))
    try:
        bad = [fault for sample in samples if (fault := _fault(transform(), sample))]
    except ImportError as error:
        note = warned(DATA_NAME, f"{found}, index readable; {error.name} is not installed to decode any", REINSTALL)
        return DataSeen((note, *findings), index.total)
    except WorkloadError as error:
        fix = "Samples cannot be transformed without it, here or on the cluster."
        return DataSeen((failed(DATA_NAME, f"{found}; {error}", fix), *findings), index.total)
    if len(bad) == len(samples):
        reason = bad[0] if bad else "none of them can be read"
        fix = f"Look at them: fuseray shards verify {uri}"
        return DataSeen(
            (failed(DATA_NAME, f"{found}, and none of {LOOKED_AT} can be used: {reason}", fix),), index.total
        )
    usable = f"{len(samples) - len(bad)} of {len(samples)} looked at decode"
    return DataSeen((passed(DATA_NAME, f"{found}; {usable}"), *findings), index.total)


def _fault(transform: Transform, sample: Sample) -> str | None:
    try:
        transform(sample, KeyedRandom((0, "preflight")))
    except BadSample as fault:
        return str(fault)
    return None


# Whether a run's folder can be written to, by writing to it.


STORAGE_NAME = "storage"
CONTENT = b"written by fuseray plan to see whether it can; safe to delete\n"


def check_writable(uri: str, endpoint: str | None, patience_s: float) -> Finding:
    """Write a small object into a folder, read it back and delete it; a folder that was made for it goes as well.

    Args:
        uri: the folder.
        endpoint: address of an S3-compatible server.
        patience_s: how long to wait for it.
    """
    fix = "Check storage.uri, storage.endpoint, and that the machine's credentials may write, read and delete there."
    try:
        within(patience_s, lambda: _write_and_delete(locate(uri, endpoint)))
    except (FuserayError, OSError) as error:
        said = str(error) if uri in str(error) else f"{uri}: {error}"
        return failed(STORAGE_NAME, said, fix)
    return passed(STORAGE_NAME, f"{uri}: can be written, read and deleted")


def _write_and_delete(folder: Location) -> None:
    made = _missing_folders(folder)
    probe = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        probe.write(CONTENT)
        if probe.read() != CONTENT:
            raise FuserayError(f"{probe.uri}: does not hold what was just written to it")
    finally:
        probe.delete()
        for path in made:
            path.rmdir()


def _missing_folders(folder: Location) -> list[Path]:
    """Return the folders on a local disk that writing will make, the innermost first; object stores have none."""
    if not folder.is_local:
        return []
    path = Path(folder.path)
    return [one for one in (path, *path.parents) if not one.exists()]
