"""Whether this machine reaches what a run needs: storage, credentials, data, MLflow; all at once, with patience."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.util import find_spec

from orchestrator.cluster.doctor.services import (
    PATIENCE_S,
    check_credentials,
    check_storage,
    check_tracking,
    credentials_provider,
)
from orchestrator.cluster.findings import Finding, failed, side_by_side, warned
from orchestrator.cluster.preflight.data import DataSeen, look_at_data
from orchestrator.cluster.preflight.places import UNNAMED
from orchestrator.cluster.preflight.storage import check_writable
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe import Recipe

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
        train = [one.uri for one in recipe.data.sets if one.uri != UNNAMED]
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
