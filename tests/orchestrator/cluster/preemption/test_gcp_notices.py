"""Preemptions of Google's machines, asked of a server that wants its header as the real one does."""

from __future__ import annotations

import pytest
from metadata_server import Metadata

from orchestrator.cluster.preemption.cloud import INSTANCE, GcpNotices
from orchestrator.cluster.preemption.notices import Notice, SourceError

PREEMPTED = INSTANCE + "preempted"
MAINTENANCE = INSTANCE + "maintenance-event"


def test_the_grace_counts_from_when_the_preemption_was_seen(metadata: Metadata) -> None:
    moments = iter([1_000_000, 1_009_000])
    source = GcpNotices(metadata.url, now_ms=lambda: next(moments))
    metadata.items[PREEMPTED] = (200, "FALSE")
    assert source.poll() is None
    metadata.items[PREEMPTED] = (200, "TRUE\n")
    assert source.poll() == Notice("spot instance, preempted", 1_030_000, "gcp")
    assert source.poll() == Notice("spot instance, preempted", 1_030_000, "gcp")


@pytest.mark.parametrize("body", ["", "true", "<html>", "TRUE FALSE"])
def test_another_answer_is_not_taken_for_one(metadata: Metadata, body: str) -> None:
    metadata.items[PREEMPTED] = (200, body)
    with pytest.raises(SourceError, match="neither TRUE nor FALSE"):
        GcpNotices(metadata.url).poll()


def test_a_pod_from_which_it_is_hidden_is_told_so(metadata: Metadata) -> None:
    with pytest.raises(SourceError, match=r"status 404\. GKE's metadata server hides it.*hostNetwork"):
        GcpNotices(metadata.url).poll()
    metadata.items[PREEMPTED] = (503, "")
    with pytest.raises(SourceError, match=r"status 503\.$"):
        GcpNotices(metadata.url).poll()


def test_maintenance_counts_only_when_asked_for_and_when_it_switches_off(metadata: Metadata) -> None:
    metadata.items |= {PREEMPTED: (200, "FALSE"), MAINTENANCE: (200, "TERMINATE_ON_HOST_MAINTENANCE")}
    assert GcpNotices(metadata.url).poll() is None
    early = GcpNotices(metadata.url, early=True)
    assert early.poll() == Notice("host maintenance that switches this machine off", None, "gcp")
    for harmless in ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"):
        metadata.items[MAINTENANCE] = (200, harmless)
        assert early.poll() is None
