"""Asking a Ray cluster from outside of it, in a short-lived process that may hang or crash without harm.

The watcher's own process so never loads Ray: it is small, and lasts as long as the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.cluster.preemption.drain import DrainError, DrainTarget
from orchestrator.cluster.preemption.notices import Notice, one_line

ATTEMPT_S = 20.0
CHILD = "orchestrator.cluster.preemption.drain_process"


@dataclass(frozen=True, slots=True)
class Found:
    """A node of a cluster.

    Args:
        node_id: in hexadecimal.
        address: HOST:PORT of the cluster's GCS.
    """

    node_id: str
    address: str


def find_node_to_drain(target: DrainTarget) -> Found:
    """Return the node that would be drained.

    Raises:
        DrainError: the cluster does not answer, or has no such node.
    """
    answer = _ask(target, None, None)
    return Found(answer["node_id"], answer["address"])


def drain(target: DrainTarget, notice: Notice) -> str:
    """Drain a node because of a notice; return in one line what was done.

    Raises:
        DrainError: the cluster did not answer in time, has no such node, or did not do it.
    """
    return _ask(target, f"{notice.source}: {notice.reason}", notice.deadline_ms)["done"]


def _ask(target: DrainTarget, message: str | None, deadline_ms: int | None) -> dict[str, str]:
    question = asdict(target) | {"message": message, "deadline_ms": deadline_ms}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", CHILD],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=ATTEMPT_S,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        where = target.address or "of this machine"
        raise DrainError(f"the Ray cluster {where} gave no answer within {ATTEMPT_S:g} s.") from None
    except OSError as error:
        raise DrainError(f"no process can be started to ask Ray ({error.strerror}).") from None
    return _answer(ran)


def _environment() -> dict[str, str]:
    """Return this process's variables, with the project where Python finds it."""
    root = str(Path(orchestrator.__file__).parents[1])
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, known] if known else [root])}


def _answer(ran: subprocess.CompletedProcess[str]) -> dict[str, str]:
    lines = ran.stdout.splitlines()
    if ran.returncode != 0 or not lines:
        raise DrainError(f"Ray ended the process that asked it: {_last_words(ran.stderr)}")
    answer: dict[str, str] = json.loads(lines[-1])
    if "error" in answer:
        raise DrainError(answer["error"])
    return answer


def _last_words(stderr: str) -> str:
    """Return the last line that a process said."""
    said = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"{one_line(said).rstrip('. ')}."


# One question to a Ray cluster, asked in a process of its own: reads JSON, prints JSON, ends.


def answer(question: dict[str, Any]) -> dict[str, str]:
    """Find the node, drain it if a message says why, and return what was found and done.

    Args:
        question: `address`, `node_id`, `message`, `deadline_ms`; each may be None.
    """
    from orchestrator.cluster.preemption.drain import DrainError, DrainTarget, Gcs, drain_node, find_node

    try:
        gcs = Gcs(question["address"])
        node_id = find_node(gcs, DrainTarget(question["address"], question["node_id"]))
        found = {"node_id": node_id, "address": gcs.address}
        if question["message"] is not None:
            found["done"] = drain_node(gcs, node_id, question["message"], question["deadline_ms"])
    except DrainError as error:
        return {"error": str(error)}
    return found


def main() -> None:
    """Answer the question on standard input."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    print(json.dumps(answer(json.load(sys.stdin))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
