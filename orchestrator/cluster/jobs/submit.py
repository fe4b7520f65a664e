"""Submitting a recipe: what is prepared before, and the submission itself."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, Literal

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.jobs.client import FOLDER_KEY, RUN_KEY, ConnectionLostError, JobClient, TokenError
from orchestrator.cluster.jobs.follow import Connect, LogReader, Patience, follow
from orchestrator.cluster.jobs.history import JobRecord, JobRegister
from orchestrator.cluster.jobs.package import PRICES_NAME, RECIPE_NAME, SWEEP_NAME, build_package
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

    entry: JobRecord
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
) -> JobRecord:
    """Return what will be remembered of a new job.

    Args:
        cluster: where it will run.
        recipe: the orchestrator's part of its recipe; of a sweep's base recipe, which bears the sweep's name.
        recipe_file: the file of the recipe, or of the sweep.
        verb: what it is submitted by.
        suffix: makes the end of its name, which tells it from other jobs of the run.
    """
    return JobRecord(
        job=f"{recipe.name}-{suffix()}",
        cluster_file=str(cluster.file),
        cluster=cluster.name,
        run=recipe.name,
        run_folder=f"{recipe.storage.uri.rstrip('/')}/{recipe.name}",
        recipe=str(recipe_file.absolute()),
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
        verb=verb,
    )


def submit(
    submission: Submission, connect: Connect, register: JobRegister, pause: Callable[[float], object] = sleep
) -> None:
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
            _submit(submission, connect, path)
        except ConnectionLostError:
            _make_sure(submission, connect, path, pause)
        except Exception:
            register.remove(submission.entry.job)
            raise


def _submit(submission: Submission, connect: Connect, package: Path) -> None:
    """Submit a job; a lost connection means that it may have been taken.

    Raises:
        ConnectionLostError: the connection was lost while the job was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    entry = submission.entry
    metadata = {RUN_KEY: entry.run, FOLDER_KEY: entry.run_folder}
    with connect() as server:
        jobs = _connected(server)
        _refuse_second(jobs, entry)
        with_prices = submission.prices is not None
        command = sweep_entrypoint(with_prices) if submission.sweep else entrypoint(submission.resume, with_prices)
        jobs.submit(entry.job, command, package, {**ENVIRONMENT, **submission.machines}, metadata)


def _refuse_second(jobs: JobClient, entry: JobRecord) -> None:
    """Refuse to train a run that another job on the cluster trains already."""
    for job in jobs.all():
        if job.run_folder == entry.run_folder and not job.is_over and job.id != entry.job:
            raise ClusterError(
                f"job {job.id} on cluster {entry.cluster} trains this run already ({entry.run_folder}); follow it "
                f"with `fuseray logs {job.id} -f`, end it with `fuseray stop {job.id}`, or start another run with "
                "name=OTHER."
            )


def _connected(server: JobServer) -> JobClient:
    try:
        return JobClient(server)
    except ConnectionLostError as error:
        raise ClusterError(str(error)) from error


def _make_sure(submission: Submission, connect: Connect, package: Path, pause: Callable[[float], object]) -> None:
    """Submit a job again that may have been taken; the job server takes a name once."""
    for attempt in range(1, ATTEMPTS + 1):
        pause(PAUSE_S)
        try:
            _submit(submission, connect, package)
            return
        except TokenError:
            raise
        except ClusterError as error:
            if attempt == ATTEMPTS:
                raise _uncertain(submission.entry, error) from error


def _uncertain(entry: JobRecord, error: ClusterError) -> ClusterError:
    return ClusterError(
        f"{error} Whether the job was taken is not known; `fuseray status {entry.job}` says it when the cluster "
        "answers again."
    )


# The command that a job runs, and the variables that it runs with.


STOP_WAIT_S = 600
"""How long a stopped job may take for its last checkpoint before Ray kills it."""

ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
"""Variables of a job; anybody who may ask the job server can read them."""


def entrypoint(resume: str | None, with_prices: bool = False) -> str:
    """Return the shell command of a job.

    The shell is replaced by it, so that a signal reaches the run itself. The cluster's address is the one that Ray
    gives the job, in the variable RAY_ADDRESS.

    Args:
        resume: the run that must be there to be continued; None continues the recipe's own run if it is there.
        with_prices: whether a table of prices travels with the job.
    """
    return _command("train", RECIPE_NAME, "--resume", resume or "auto", *_prices(with_prices), "scale.address=auto")


def sweep_entrypoint(with_prices: bool = False) -> str:
    """Return the shell command of a job that runs a sweep, or continues it; the sweep itself says where Ray is.

    Args:
        with_prices: whether a table of prices travels with the job.
    """
    return _command("sweep", SWEEP_NAME, "--resume", "auto", "--no-plan", *_prices(with_prices))


def _prices(with_prices: bool) -> list[str]:
    return ["--prices", PRICES_NAME] if with_prices else []


def _command(*words: str) -> str:
    return f"exec {shlex.join(['python', '-m', 'orchestrator.cli', *words])}"


# Having a machine of the cluster look at what a run needs, as a short job before the job itself.


COMMAND = f"exec {shlex.join(['python', '-m', 'orchestrator.cli', 'plan', RECIPE_NAME, '--here', '--json'])}"
LAST_LINES = 15


def check_recipe_on_cluster(
    submission: Submission, connect: Connect, log: Callable[[str], object], patience: Patience | None = None
) -> dict[str, Any]:
    """Return what `fuseray plan --here --json` says on the cluster's head.

    Args:
        submission: the job that is to be submitted; the look is named after it.
        reach: opens the way to the job server.
        log: is told when the connection is lost.
        patience: how long it may be lost.

    Raises:
        PackageError: something must not or cannot travel.
        ClusterError: the cluster cannot be reached, or the look itself fails there; its last words are in the message.
    """
    name = f"{submission.entry.job}-check"
    with TemporaryDirectory(prefix="fuseray-job-") as folder, connect() as server:
        package = Path(folder) / "job.zip"
        build_package(package, submission.recipe, submission.workload, submission.prices, submission.sweep)
        JobClient(server).submit(name, COMMAND, package, ENVIRONMENT, {})
    heard: list[str] = []
    job = follow(connect, name, LogReader(heard.append), log, patience)
    text = "".join(heard)
    found = parse_look(text)
    if found is None:
        last = "\n".join(text.splitlines()[-LAST_LINES:]) or job.failure
        raise ClusterError(f"cluster {submission.entry.cluster}: its head cannot check the recipe:\n{last}")
    return found


def parse_look(log: str) -> dict[str, Any] | None:
    """Return the JSON object in a log that may hold other lines before and after it, None when there is none."""
    start, end = log.find("\n{") + 1 if not log.startswith("{") else 0, log.rfind("}") + 1
    try:
        found = json.loads(log[start:end])
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and "findings" in found else None
