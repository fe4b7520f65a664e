"""Workloads, corpora and checkpoint formats, found by name through entry points."""

from __future__ import annotations

from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

from orchestrator.spec.errors import SpecError
from orchestrator.spec.validation import unknown_key
from workloads.contract import CheckpointFormat, CorpusEntry, WorkloadEntry


def find_workload(name: str) -> WorkloadEntry:
    """Return the workload registered under a name in the group `fuseray.workloads`.

    Raises:
        SpecError: no such workload, or it does not keep the contract.
    """
    entry: WorkloadEntry = _find("fuseray.workloads", "workload", name, WorkloadEntry)
    return entry


def workload_distribution(name: str) -> Distribution | None:
    """Return the distribution that registers a workload, None when there is no such workload."""
    point = _points("fuseray.workloads").get(name)
    return None if point is None else point.dist


def find_corpus(name: str) -> CorpusEntry:
    """Return the corpus builder registered under a name in the group `fuseray.corpora`.

    Raises:
        SpecError: no such corpus, or it does not keep the contract.
    """
    entry: CorpusEntry = _find("fuseray.corpora", "corpus", name, CorpusEntry)
    return entry


def find_checkpoint_format(name: str) -> CheckpointFormat:
    """Return the checkpoint format registered under a name in the group `fuseray.checkpoint_formats`.

    Raises:
        SpecError: no such format, or it does not keep the contract.
    """
    entry: CheckpointFormat = _find("fuseray.checkpoint_formats", "checkpoint format", name, CheckpointFormat)
    return entry


def corpus_names() -> list[str]:
    """Return the names of all registered corpora."""
    return sorted(point.name for point in entry_points(group="fuseray.corpora"))


def _find(group: str, kind: str, name: str, protocol: Any) -> Any:
    points = _points(group)
    if name not in points:
        raise SpecError(f"{kind}: {unknown_key(name, points).replace('unknown key', f'no {kind} is called')}")
    entry = points[name].load()
    if not isinstance(entry, protocol):
        raise SpecError(f"{kind} {name!r} ({points[name].value}) does not implement {protocol.__name__}.")
    return entry


def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
