"""Whether the training data can be read, and how much there is of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.doctor.python_env import REINSTALL
from orchestrator.cluster.findings import Finding, failed, passed, warned, within
from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import check_shards, read_index
from orchestrator.stream.dataset.samples import evenly_spaced
from workloads.contract import BadSample, KeyedRandom, Sample, Transform, WorkloadError

NAME = "data"
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
        return DataSeen((failed(NAME, str(error), "Check data.* in the recipe, the credentials and the network."),))
    except TimeoutError as error:
        fix = "Check the address, storage.endpoint and the network (proxy, firewall, VPN)."
        return DataSeen((failed(NAME, f"{uri}: {error}", fix),))


def _look(uri: str, endpoint: str | None, transform: Callable[[], Transform] | None) -> DataSeen:
    folder = locate(uri, endpoint)
    index = read_index(folder)
    shorter = check_shards(folder, index)
    found = f"{uri}: {index.total:,} samples in {len(index.shards):,} shards"
    findings = [
        warned(NAME, f"{uri}/{name}: is shorter than when it was indexed", "Its lost samples are skipped; index again.")
        for name in shorter
    ]
    if transform is None:
        return DataSeen((passed(NAME, f"{found}, index readable"), *findings), index.total)
    samples = list(evenly_spaced(folder, index, LOOKED_AT))
    try:
        bad = [fault for sample in samples if (fault := _fault(transform(), sample))]
    except ImportError as error:
        note = warned(NAME, f"{found}, index readable; {error.name} is not installed to decode any", REINSTALL)
        return DataSeen((note, *findings), index.total)
    except WorkloadError as error:
        fix = "Samples cannot be transformed without it, here or on the cluster."
        return DataSeen((failed(NAME, f"{found}; {error}", fix), *findings), index.total)
    if len(bad) == len(samples):
        reason = bad[0] if bad else "none of them can be read"
        fix = f"Look at them: fuseray shards verify {uri}"
        return DataSeen((failed(NAME, f"{found}, and none of {LOOKED_AT} can be used: {reason}", fix),), index.total)
    usable = f"{len(samples) - len(bad)} of {len(samples)} looked at decode"
    return DataSeen((passed(NAME, f"{found}; {usable}"), *findings), index.total)


def _fault(transform: Transform, sample: Sample) -> str | None:
    try:
        transform(sample, KeyedRandom((0, "preflight")))
    except BadSample as fault:
        return str(fault)
    return None
