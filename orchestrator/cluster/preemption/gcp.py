"""Preemptions of Google Compute Engine's spot and preemptible machines, from its metadata server.

`instance/preempted` turns from FALSE to TRUE when the machine is preempted, 30 seconds before it is switched off;
`instance/maintenance-event` may announce earlier that the host will be serviced with this machine switched off.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.cluster.preemption.metadata import Answer, ask
from orchestrator.cluster.preemption.notice import Notice, SourceError, now_ms

GCP_URL = "http://metadata.google.internal"
INSTANCE = "/computeMetadata/v1/instance/"
GRACE_MS = 30_000
HEADERS = {"Metadata-Flavor": "Google"}
CONCEALED_FIX = "GKE's metadata server hides it from pods; run the watcher with hostNetwork."


class GcpNotices:
    """Asks Google's metadata server.

    Args:
        url: where the server is.
        early: also take a coming maintenance that switches this machine off, which has no deadline, for a notice.
        now_ms: milliseconds since 1970 in UTC.
    """

    name = "gcp"
    interval_s = 1.0

    def __init__(self, url: str = GCP_URL, early: bool = False, now_ms: Callable[[], int] = now_ms) -> None:
        self._url = url
        self._early = early
        self._now_ms = now_ms
        self._preempted: Notice | None = None

    def poll(self) -> Notice | None:
        """Return the preemption, None while there is none; its 30 seconds count from when it was first seen."""
        if self._is_preempted():
            self._preempted = self._preempted or Notice(
                "spot instance, preempted", self._now_ms() + GRACE_MS, self.name
            )
            return self._preempted
        if self._early and self._get("maintenance-event").text().startswith("TERMINATE"):
            return Notice("host maintenance that switches this machine off", None, self.name)
        return None

    def reachable(self) -> bool:
        """Return whether Google's metadata server is there."""
        try:
            return self._get("id").headers.get("metadata-flavor") == "Google"
        except SourceError:
            return False

    def _is_preempted(self) -> bool:
        said = self._get("preempted").text()
        if said not in ("TRUE", "FALSE"):
            raise SourceError(f"{self._url}{INSTANCE}preempted says neither TRUE nor FALSE.")
        return said == "TRUE"

    def _get(self, name: str) -> Answer:
        answer = ask("GET", f"{self._url}{INSTANCE}{name}", HEADERS)
        if answer.status != 200:
            fix = f" {CONCEALED_FIX}" if answer.status in (403, 404) else ""
            raise SourceError(f"{self._url}{INSTANCE}{name}: status {answer.status}.{fix}")
        return answer
