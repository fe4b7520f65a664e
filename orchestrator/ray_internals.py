"""The private names of Ray's core that Fuseray uses, gathered here; read in Ray 2.60.

Ray may change any of them in a minor release, so `pyproject.toml` allows 2.60 alone. Before raising it, look these up
in the new version and run `tests/e2e` and `tests/orchestrator/cluster`.

    GcsClient         drains nodes and lists them; checks that a cluster accepts this process's token
    RayConfig         rereads the environment, so that a process can enable token authentication after the import
    token_setup       enables token authentication where this machine has a token
    services          finds the cluster of this machine, and the ids of its nodes
    cluster_state     tells which nodes are draining, and until when
    ray_worker        writes the raylet's messages to the terminal; they are sent to a log file instead
    node              starts Ray's processes on this machine; `without_unused_processes` leaves three of them out
    GcsNodeInfo       the states of a node
    DrainNodeReason   the reasons for a drain

`import ray` loads all of these modules, so this one costs nothing more. `train/recovery/ray_internals.py` does the same
for Ray Train. The following names stay where they are used, since loading them costs time that most processes can save:

    ray.data._internal.execution.execution_callback   `Pacing` in stream/ray_dataset.py, which loads Ray Data anyway
    ray.data._internal.cluster_autoscaler             `AutoscalingRequest` in train/resources.py
    ray.train.v2._internal.exceptions                 train/recovery/classify.py; verbs that do not train load it too
    ray.autoscaler._private.util                      completes and validates a cluster file: cluster/files/providers.py
    ray.autoscaler._private.commands                  finds how to log in to a head: cluster/launch/head.py

Private attributes of public classes are used by the subclasses that need them, each in one file: `_coord_actor` of the
iterators of `streaming_split` in stream/ray_dataset.py, `_get_proto_job_config` and `_py_driver_sys_path` of a job's
configuration in train/ray_session.py, and `_brackets`, `_trial_state` and `_get_new_config` of Ray
Tune's schedulers in sweep/schedulers.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import node, services, worker
from ray._private.authentication import authentication_token_setup as token_setup
from ray._private.state import state as cluster_state
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

ray_worker: Any = worker

__all__ = [
    "DrainNodeReason",
    "GcsClient",
    "GcsNodeInfo",
    "RayConfig",
    "cluster_state",
    "ray_worker",
    "services",
    "token_setup",
    "without_unused_processes",
]


class _HeadOfOneMachine(node.Node):
    """A head node that runs neither dashboard server nor autoscaler nor log monitor."""

    def start_api_server(self, **_: object) -> None:
        """Start no dashboard server; Ray starts one, and waits for it, even with `include_dashboard=False`."""

    def start_monitor(self) -> None:
        """Start no autoscaler."""

    def start_log_monitor(self) -> None:
        """Start nothing that sends the workers' output to the driver."""


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """Have `ray.init` start a local Ray without dashboard, autoscaler and log monitor: one to two seconds less."""
    usual = node.Node
    node.Node = _HeadOfOneMachine  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node = usual  # type: ignore[misc]
