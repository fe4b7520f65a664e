"""Drains a node from outside of Ray, by a query in a short-lived child process, which may hang or crash.

So the process of `fuseray watch-preemption`, which lives as long as the machine, never loads Ray and stays small.
`main` and the functions below it run in the child.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.cluster.launch.subprocesses import ChildFailedError, answer_parent, query_child
from orchestrator.cluster.preemption.drain import DrainError, DrainTarget, Gcs, drain_node, find_node
from orchestrator.cluster.preemption.notices import Notice, one_line

ATTEMPT_S = 20.0
CHILD = "orchestrator.cluster.preemption.drain_process"


@dataclass(frozen=True, slots=True)
class NodeToDrain:
    """A node of a cluster.

    Args:
        node_id: in hexadecimal.
        address: HOST:PORT of the cluster's GCS.
    """

    node_id: str
    address: str


def find_node_to_drain(target: DrainTarget) -> NodeToDrain:
    """Return the node that `drain` would drain.

    Raises:
        DrainError: the cluster does not answer, or has no such node.
    """
    answer = _query(target, None, None)
    return NodeToDrain(answer["node_id"], answer["address"])


def drain(target: DrainTarget, notice: Notice) -> str:
    """Drain a node because of a notice; return a line that says what was done.

    Raises:
        DrainError: the cluster did not answer in time, has no such node, or did not drain it.
    """
    return _query(target, f"{notice.source}: {notice.reason}", notice.deadline_ms)["done"]


def _query(target: DrainTarget, message: str | None, deadline_ms: int | None) -> dict[str, str]:
    try:
        answer = query_child(CHILD, asdict(target) | {"message": message, "deadline_ms": deadline_ms}, ATTEMPT_S)
    except subprocess.TimeoutExpired:
        where = target.address or "of this machine"
        raise DrainError(f"the Ray cluster {where} gave no answer within {ATTEMPT_S:g} s.") from None
    except ChildFailedError as error:
        raise _child_failed(error) from None
    except OSError as error:
        raise DrainError(f"no process can be started to query Ray ({error.strerror}).") from None
    if "error" in answer:
        raise DrainError(answer["error"])
    return answer


def _child_failed(error: ChildFailedError) -> DrainError:
    last_line = (error.output.splitlines() or ["it printed nothing"])[-1]
    return DrainError(f"Ray ended the process that queried it: {one_line(last_line).rstrip('. ')}.")


def main() -> None:
    """Answer the question on standard input."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    answer_parent(_answer)
    os._exit(0)


def _answer(question: dict[str, Any]) -> dict[str, str]:
    """Find the node, and drain it if there is a message; return what was found and done, or the error.

    Args:
        question: `address`, `node_id`, `message`, `deadline_ms`; each may be None.
    """
    try:
        gcs = Gcs(question["address"])
        node_id = find_node(gcs, DrainTarget(question["address"], question["node_id"]))
        answer = {"node_id": node_id, "address": gcs.address}
        if question["message"] is not None:
            answer["done"] = drain_node(gcs, node_id, question["message"], question["deadline_ms"])
    except DrainError as error:
        return {"error": str(error)}
    return answer


if __name__ == "__main__":
    main()
