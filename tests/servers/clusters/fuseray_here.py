"""The command line, with clusters that run already: a cluster's file is JSON with its kind, job server and token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.files import read
from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch import launchers
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.config.cluster import Cluster, NodeGroup


class Here:
    """A cluster that somebody else started; it is up while its file says where it is.

    Args:
        cluster: as its file describes it.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def is_up(self) -> bool:
        return "url" in self._settings()

    def up(self, log: Callable[[str], object]) -> None:
        log(f"starting {self._cluster.name}")
        settings = self._settings()
        self._cluster.file.write_text(json.dumps(settings | {"url": settings["later"]}))

    def down(self, log: Callable[[str], object]) -> None:
        raise NotImplementedError

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        if not self.is_up():
            raise ClusterError(f"cluster {self._cluster.name} is not up")
        settings = self._settings()
        yield JobServer(settings["url"], settings["token"])

    def _settings(self) -> dict[str, str]:
        return dict(json.loads(self._cluster.file.read_text()))


def read_cluster(path: Path) -> Cluster:
    """Read a cluster's file."""
    settings = json.loads(path.read_text())
    head = NodeGroup(name="head", machine=None, market=settings["market"], fewest=1, most=1, cpus=2, gpus=0, head=True)
    return Cluster(kind=settings["kind"], name=path.stem, file=path.absolute(), groups=(head,), settings=settings)


def use_here() -> None:
    """Let the command line find these clusters."""
    read.read_cluster = read_cluster
    launchers.launcher_of = Here  # type: ignore[assignment]


if __name__ == "__main__":
    from orchestrator.cli.main import main

    use_here()
    main()
