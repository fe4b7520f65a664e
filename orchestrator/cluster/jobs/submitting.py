"""Submitting a recipe: what is prepared before, and the submission itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.entrypoint import ENVIRONMENT, entrypoint
from orchestrator.cluster.jobs.errors import ConnectionLostError, TokenError
from orchestrator.cluster.jobs.following import Reach
from orchestrator.cluster.jobs.job import FOLDER_KEY, RUN_KEY
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.package import build_package
from orchestrator.cluster.jobs.register import Entry, Register
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.spec.cluster import Cluster
from orchestrator.spec.recipe import Recipe

SUFFIX_BYTES = 3
ATTEMPTS = 4
PAUSE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job to submit.

    Args:
        entry: what this machine remembers of it.
        recipe: the resolved recipe, as YAML.
        workload: the recipe's workload.
        resume: the run that must be there to be continued; None continues the recipe's own if it is there.
        prices: a table of prices, as YAML.
    """

    entry: Entry
    recipe: str
    workload: str
    resume: str | None = None
    prices: str | None = None


def new_entry(
    cluster: Cluster,
    recipe: Recipe,
    recipe_file: Path,
    suffix: Callable[[], str] = lambda: secrets.token_hex(SUFFIX_BYTES),
) -> Entry:
    """Return what will be remembered of a new job.

    Args:
        cluster: where it will run.
        recipe: the orchestrator's part of its recipe.
        recipe_file: the recipe's file.
        suffix: makes the end of its name, which tells it from other jobs of the run.
    """
    return Entry(
        job=f"{recipe.name}-{suffix()}",
        cluster_file=str(cluster.file),
        cluster=cluster.name,
        run=recipe.name,
        run_folder=f"{recipe.storage.uri.rstrip('/')}/{recipe.name}",
        recipe=str(recipe_file.absolute()),
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def submit(submission: Submission, reach: Reach, register: Register, pause: Callable[[float], object] = sleep) -> None:
    """Pack, remember and submit a job; a connection that breaks meanwhile does not make two of one.

    Args:
        submission: the job.
        reach: opens the way to the job server.
        register: remembers it; what was refused is forgotten again.
        pause: waits so many seconds.

    Raises:
        PackageError: something must not or cannot travel; nothing was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    with TemporaryDirectory(prefix="fuseray-job-") as folder:
        path = Path(folder) / "job.zip"
        build_package(path, submission.recipe, submission.workload, submission.prices)
        register.add(submission.entry)
        try:
            _submit(submission, reach, path)
        except ConnectionLostError:
            _make_sure(submission, reach, path, pause)
        except Exception:
            register.remove(submission.entry.job)
            raise


def _submit(submission: Submission, reach: Reach, package: Path) -> None:
    """Submit a job; a lost connection means that it may have been taken.

    Raises:
        ConnectionLostError: the connection was lost while the job was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    entry = submission.entry
    metadata = {RUN_KEY: entry.run, FOLDER_KEY: entry.run_folder}
    with reach() as server:
        jobs = _connected(server)
        jobs.submit(entry.job, entrypoint(submission.resume), package, ENVIRONMENT, metadata)


def _connected(server: JobServer) -> Jobs:
    try:
        return Jobs(server)
    except ConnectionLostError as error:
        raise ClusterError(str(error)) from error


def _make_sure(submission: Submission, reach: Reach, package: Path, pause: Callable[[float], object]) -> None:
    """Submit a job again that may have been taken; the job server takes a name once."""
    for attempt in range(1, ATTEMPTS + 1):
        pause(PAUSE_S)
        try:
            _submit(submission, reach, package)
            return
        except TokenError:
            raise
        except ClusterError as error:
            if attempt == ATTEMPTS:
                raise _uncertain(submission.entry, error) from error


def _uncertain(entry: Entry, error: ClusterError) -> ClusterError:
    return ClusterError(
        f"{error} Whether the job was taken is not known; `fuseray status {entry.job}` says it when the cluster "
        "answers again."
    )
