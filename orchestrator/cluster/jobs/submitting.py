"""Submitting a recipe: what is prepared before, and the submission itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Literal

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.entrypoint import ENVIRONMENT, entrypoint, sweep_entrypoint
from orchestrator.cluster.jobs.errors import ConnectionLostError, TokenError
from orchestrator.cluster.jobs.following import Reach
from orchestrator.cluster.jobs.job import FOLDER_KEY, RUN_KEY
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.package import build_package
from orchestrator.cluster.jobs.register import Entry, Register
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.config.cluster import Cluster
from orchestrator.config.recipe import Recipe

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
        sweep: a sweep over the recipe, as YAML; None to train the recipe.
        machines: variables that tell the run which machines its cluster can have.
    """

    entry: Entry
    recipe: str
    workload: str
    resume: str | None = None
    prices: str | None = None
    sweep: str | None = None
    machines: Mapping[str, str] = field(default_factory=dict)


def new_entry(
    cluster: Cluster,
    recipe: Recipe,
    recipe_file: Path,
    verb: Literal["submit", "sweep"] = "submit",
    suffix: Callable[[], str] = lambda: secrets.token_hex(SUFFIX_BYTES),
) -> Entry:
    """Return what will be remembered of a new job.

    Args:
        cluster: where it will run.
        recipe: the orchestrator's part of its recipe; of a sweep's base recipe, which bears the sweep's name.
        recipe_file: the file of the recipe, or of the sweep.
        verb: what it is submitted by.
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
        verb=verb,
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
        build_package(path, submission.recipe, submission.workload, submission.prices, submission.sweep)
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
        _refuse_second(jobs, entry)
        with_prices = submission.prices is not None
        command = sweep_entrypoint(with_prices) if submission.sweep else entrypoint(submission.resume, with_prices)
        jobs.submit(entry.job, command, package, {**ENVIRONMENT, **submission.machines}, metadata)


def _refuse_second(jobs: Jobs, entry: Entry) -> None:
    """Refuse to train a run that another job on the cluster trains already."""
    for job in jobs.all():
        if job.run_folder == entry.run_folder and not job.is_over and job.id != entry.job:
            raise ClusterError(
                f"job {job.id} on cluster {entry.cluster} trains this run already ({entry.run_folder}); follow it "
                f"with `fuseray logs {job.id} -f`, end it with `fuseray stop {job.id}`, or start another run with "
                "name=OTHER."
            )


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
