"""One question to a Ray cluster, asked in a process of its own: reads JSON, prints JSON, ends."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def answer(question: dict[str, Any]) -> dict[str, str]:
    """Find the node, drain it if a message says why, and return what was found and done.

    Args:
        question: `address`, `node_id`, `message`, `deadline_ms`; each may be None.
    """
    from orchestrator.cluster.preemption.drain import Gcs, drain_node, find_node
    from orchestrator.cluster.preemption.node import DrainError, Target

    try:
        gcs = Gcs(question["address"])
        node_id = find_node(gcs, Target(question["address"], question["node_id"]))
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
