"""Having a machine of the cluster look at what a run needs, as a short job before the job itself."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.entrypoint import ENVIRONMENT
from orchestrator.cluster.jobs.following import Patience, Reach, Reader, follow
from orchestrator.cluster.jobs.job_server import Jobs
from orchestrator.cluster.jobs.package import RECIPE_NAME, build_package
from orchestrator.cluster.jobs.submitting import Submission

COMMAND = f"exec {shlex.join(['python', '-m', 'orchestrator.cli', 'plan', RECIPE_NAME, '--here', '--json'])}"
LAST_LINES = 15


def look_from_cluster(
    submission: Submission, reach: Reach, say: Callable[[str], object], patience: Patience | None = None
) -> dict[str, Any]:
    """Return what `fuseray plan --here --json` says on the cluster's head.

    Args:
        submission: the job that is to be submitted; the look is named after it.
        reach: opens the way to the job server.
        say: is told when the connection is lost.
        patience: how long it may be lost.

    Raises:
        PackageError: something must not or cannot travel.
        ClusterError: the cluster cannot be reached, or the look itself fails there; its last words are in the message.
    """
    name = f"{submission.entry.job}-check"
    with TemporaryDirectory(prefix="fuseray-job-") as folder, reach() as server:
        package = Path(folder) / "job.zip"
        build_package(package, submission.recipe, submission.workload, submission.prices, submission.sweep)
        Jobs(server).submit(name, COMMAND, package, ENVIRONMENT, {})
    heard: list[str] = []
    job = follow(reach, name, Reader(heard.append), say, patience)
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
