"""A job as its cluster's job server knows it, and what is decided from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

RUN_KEY = "fuseray_run"
FOLDER_KEY = "fuseray_run_folder"
"""What is stored with a job so that others can tell what it is."""

Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
STOPPED_CODE = 130
"""As `fuseray train` ends when it is asked to stop; Ray does not keep the code of a job that it stopped."""

NO_PROGRAM_CODE = 127
"""A shell's exit code for a program that it does not find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job.

    Args:
        id: the name that it was submitted under.
        status: as Ray has it.
        run: name of the run; empty when Fuseray did not submit the job.
        run_folder: where the run is written; empty likewise.
        message: what Ray says about the status.
        started_ms: when it was submitted, as a Unix time.
        ended_ms: when it ended.
        exit_code: of its command, if that ended by itself.
    """

    id: str
    status: Status
    run: str = ""
    run_folder: str = ""
    message: str = ""
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def code(self) -> int:
        """The exit code for whoever waited for the job; a signal's number counts from 128 on, as in shells."""
        if self.status == "STOPPED":
            return STOPPED_CODE
        if self.status == "SUCCEEDED":
            return 0
        code = self.exit_code or 1
        return code if code > 0 else 128 - code

    @property
    def explained_itself(self) -> bool:
        """Whether the reason of a failure is in the job's log, because its command got as far as that."""
        return self.exit_code not in (None, NO_PROGRAM_CODE)

    @property
    def failure(self) -> str:
        """Why the job failed, if it did: Ray's message, with the fix where Ray's words do not lead to it."""
        if self.status != "FAILED":
            return ""
        if self.exit_code == NO_PROGRAM_CODE:
            return (
                "the head's shell finds no `python`: start Ray there with the bin folder of its Python environment "
                f"first in PATH. Ray says: {self.message}"
            )
        return self.message

    def seconds(self, now_ms: int) -> float | None:
        """Return how long it has been going on, or how long it took."""
        return None if self.started_ms is None else ((self.ended_ms or now_ms) - self.started_ms) / 1000


def job_of(details: Any) -> Job | None:
    """Return a job from Ray's own description (JobDetails), None when it is no job that was submitted."""
    if details.submission_id is None:
        return None
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=details.status.value,
        run=metadata.get(RUN_KEY, ""),
        run_folder=metadata.get(FOLDER_KEY, ""),
        message=details.message or "",
        started_ms=details.start_time,
        ended_ms=details.end_time,
        exit_code=details.driver_exit_code,
    )
