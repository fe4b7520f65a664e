"""Submits a recipe, a sweep or an evaluation as a job: its entrypoint, retries, and a check on the cluster."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, Literal

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.jobs.client import FOLDER_KEY, RUN_KEY, ConnectionLostError, JobClient, TokenError
from orchestrator.cluster.jobs.follow import Connect, LogReader, Timeouts, follow
from orchestrator.cluster.jobs.history import JobRecord, JobRegister
from orchestrator.cluster.jobs.package import PRICES_NAME, RECIPE_NAME, SWEEP_NAME, build_package
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.config.cluster import Cluster
from orchestrator.config.commands import command_line
from orchestrator.config.recipe import Recipe

SUFFIX_BYTES = 3
ATTEMPTS = 4
PAUSE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job to submit.

    Args:
        entry: its entry in the register.
        recipe: the resolved recipe, as YAML.
        workload: the recipe's workload.
        resume: the run to resume, which must exist; None resumes the recipe's own run if it exists.
        prices: a table of prices, as YAML.
        sweep: a sweep over the recipe, as YAML; None to train the recipe.
        evaluate: arguments of `fuseray evaluate`, to evaluate a run of the recipe instead; None otherwise.
        machines: variables that describe the cluster's node groups to the run.
    """

    entry: JobRecord
    recipe: str
    workload: str
    resume: str | None = None
    prices: str | None = None
    sweep: str | None = None
    evaluate: tuple[str, ...] | None = None
    machines: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The shell command of the job."""
        if self.evaluate is not None:
            return evaluation_entrypoint(self.evaluate)
        with_prices = self.prices is not None
        return sweep_entrypoint(with_prices) if self.sweep else entrypoint(self.resume, with_prices)


def new_entry(
    cluster: Cluster,
    recipe: Recipe,
    recipe_file: Path,
    verb: Literal["submit", "sweep"] = "submit",
    suffix: Callable[[], str] = lambda: secrets.token_hex(SUFFIX_BYTES),
) -> JobRecord:
    """Return the register's entry of a new job.

    Args:
        cluster: the cluster to run on.
        recipe: the orchestrator's part of its recipe; of a sweep's base recipe, which has the sweep's name.
        recipe_file: the file of the recipe, or of the sweep.
        verb: the command that submits it.
        suffix: makes the end of its submission id, which differs between jobs of one run.
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


def evaluation_entry(
    cluster: Cluster, run_folder: str, name: str, suffix: Callable[[], str] = lambda: secrets.token_hex(SUFFIX_BYTES)
) -> JobRecord:
    """Return the register's entry of a new job that evaluates a run, which may train meanwhile.

    Args:
        cluster: the cluster to run on.
        run_folder: URI of the run's folder.
        name: the run's name.
        suffix: makes the end of its submission id.
    """
    return JobRecord(
        job=f"{name}-evaluation-{suffix()}",
        cluster_file=str(cluster.file),
        cluster=cluster.name,
        run=name,
        run_folder=f"{run_folder.rstrip('/')}/evaluation",
        recipe=run_folder,
        submitted=datetime.now(UTC).isoformat(timespec="seconds"),
        verb="evaluate",
    )


def submit(
    submission: Submission, connect: Connect, register: JobRegister, pause: Callable[[float], object] = sleep
) -> None:
    """Pack, register and submit a job. After a lost connection it submits again, which cannot start the job twice.

    Args:
        submission: the job.
        connect: opens a connection to the job server.
        register: the register; a job that was refused is removed from it.
        pause: waits so many seconds.

    Raises:
        PackageError: something must not or cannot be packed; nothing was submitted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    with TemporaryDirectory(prefix="fuseray-job-") as folder:
        path = Path(folder) / "job.zip"
        build_package(path, submission.recipe, submission.workload, submission.prices, submission.sweep)
        register.add(submission.entry)
        try:
            _submit(submission, connect, path)
        except ConnectionLostError:
            _submit_again(submission, connect, path, pause)
        except Exception:
            register.remove(submission.entry.job)
            raise


def _submit(submission: Submission, connect: Connect, package: Path) -> None:
    """Submit a job.

    Raises:
        ConnectionLostError: the connection was lost, and the job may have been accepted.
        ClusterError: the cluster cannot be reached, or refuses the job.
    """
    entry = submission.entry
    metadata = {RUN_KEY: entry.run, FOLDER_KEY: entry.run_folder}
    with connect() as server:
        jobs = _connected(server)
        _check_run_is_free(jobs, entry)
        jobs.submit(entry.job, submission.command, package, {**ENVIRONMENT, **submission.machines}, metadata)


def _check_run_is_free(jobs: JobClient, entry: JobRecord) -> None:
    """Refuse to train a run that another job on the cluster trains already."""
    for job in jobs.all():
        if job.run_folder == entry.run_folder and not job.is_over and job.id != entry.job:
            raise ClusterError(
                f"job {job.id} on cluster {entry.cluster} trains this run already ({entry.run_folder}); follow it "
                f"with `{command_line('logs', job.id, '-f')}`, end it with `{command_line('stop', job.id)}`, or "
                "start another run with name=OTHER."
            )


def _connected(server: JobServer) -> JobClient:
    try:
        return JobClient(server)
    except ConnectionLostError as error:
        raise ClusterError(str(error)) from error


def _submit_again(submission: Submission, connect: Connect, package: Path, pause: Callable[[float], object]) -> None:
    """Submit a job again that may have been accepted; the job server accepts a submission id once."""
    for attempt in range(1, ATTEMPTS + 1):
        pause(PAUSE_S)
        try:
            _submit(submission, connect, package)
            return
        except TokenError:
            raise
        except ClusterError as error:
            if attempt == ATTEMPTS:
                raise _unknown_outcome(submission.entry, error) from error


def _unknown_outcome(entry: JobRecord, error: ClusterError) -> ClusterError:
    return ClusterError(
        f"{error} It is not known whether the job was accepted; run `{command_line('status', entry.job)}` when the "
        "cluster answers again."
    )


STOP_WAIT_S = 600
"""How long a stopped job may take for its last checkpoint, in seconds, before Ray kills it."""

ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
"""Environment variables of a job; every user of the job server can read them."""


def entrypoint(resume: str | None, with_prices: bool = False) -> str:
    """Return the shell command of a job.

    It replaces the shell (`exec`), so that signals reach the run itself. The cluster's address is the one that Ray
    gives the job in the variable RAY_ADDRESS.

    Args:
        resume: the run to resume, which must exist; None resumes the recipe's own run if it exists.
        with_prices: whether the package has a table of prices.
    """
    return _command("train", RECIPE_NAME, "--resume", resume or "auto", *_prices(with_prices), "scale.address=auto")


def sweep_entrypoint(with_prices: bool = False) -> str:
    """Return the shell command of a job that runs a sweep, or resumes it; the sweep's file has Ray's address.

    Args:
        with_prices: whether the package has a table of prices.
    """
    return _command("sweep", SWEEP_NAME, "--resume", "auto", "--no-plan", *_prices(with_prices))


def evaluation_entrypoint(arguments: Sequence[str]) -> str:
    """Return the shell command of a job that evaluates a run in actors on the cluster.

    Args:
        arguments: of `fuseray evaluate`, without Ray's address.
    """
    return _command("evaluate", "--address", "auto", *arguments)


def _prices(with_prices: bool) -> list[str]:
    return ["--prices", PRICES_NAME] if with_prices else []


def _command(*words: str) -> str:
    return f"exec {shlex.join(['python', '-m', 'orchestrator.cli', *words])}"


PLAN_COMMAND = f"exec {shlex.join(['python', '-m', 'orchestrator.cli', 'plan', RECIPE_NAME, '--here', '--json'])}"
LAST_LINES = 15


def check_recipe_on_cluster(
    submission: Submission, connect: Connect, log: Callable[[str], object], timeouts: Timeouts | None = None
) -> dict[str, Any]:
    """Run `fuseray plan --here --json` on the cluster's head and return its output.

    Args:
        submission: the job to check; the submission id of the check begins with that of the job.
        connect: opens a connection to the job server.
        log: takes a line when the connection is lost.
        timeouts: when to give up.

    Raises:
        PackageError: something must not or cannot be packed.
        ClusterError: the cluster cannot be reached, or the command failed; the message has its last output.
    """
    name = f"{submission.entry.job}-check"
    with TemporaryDirectory(prefix="fuseray-job-") as folder, connect() as server:
        package = Path(folder) / "job.zip"
        build_package(package, submission.recipe, submission.workload, submission.prices, submission.sweep)
        JobClient(server).submit(name, PLAN_COMMAND, package, ENVIRONMENT, {})
    pieces: list[str] = []
    job = follow(connect, name, LogReader(pieces.append), log, timeouts)
    text = "".join(pieces)
    plan = parse_plan(text)
    if plan is None:
        last_lines = "\n".join(text.splitlines()[-LAST_LINES:]) or job.failure
        raise ClusterError(f"cluster {submission.entry.cluster}: its head cannot check the recipe:\n{last_lines}")
    return plan


def parse_plan(log: str) -> dict[str, Any] | None:
    """Return the plan, a JSON object, in a log that may have other lines before and after it; None without one."""
    start, end = log.find("\n{") + 1 if not log.startswith("{") else 0, log.rfind("}") + 1
    try:
        plan = json.loads(log[start:end])
    except json.JSONDecodeError:
        return None
    return plan if isinstance(plan, dict) and "findings" in plan else None
