"""What a cluster YAML becomes: the machines that a run may have, whoever starts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Market = Literal["spot", "on-demand", "owned"]
"""How machines are paid for; nobody bills for `owned` ones, or takes them away."""

MACHINE_LABEL = "fuseray.io/machine"
"""Label of Ray nodes that names the machine's type as the price table knows it, such as p5.48xlarge."""

MARKET_LABEL = "ray.io/market-type"
"""Label of Ray nodes that says how the machine is paid for, in Ray's words: spot or on-demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Machines of one kind.

    Args:
        name: as in the file.
        machine: type of machine, a key of the price table; None when the file does not say.
        market: how they are paid for.
        fewest: machines that are always there.
        most: machines that there may be.
        cpus: of one machine, as Ray counts them; None when only the machine itself knows.
        gpus: of one machine.
        head: whether this is the machine that Ray's head and the run's driver are on.
    """

    name: str
    machine: str | None
    market: Market
    fewest: int
    most: int
    cpus: float | None
    gpus: float
    head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster as its file describes it.

    Args:
        kind: what the file is for: this machine, Ray's cluster launcher, or KubeRay.
        name: the cluster's name.
        file: the file, absolute.
        groups: its machines; exactly one group is the head.
        settings: the file's content, with the environment's variables not filled in.
    """

    kind: Literal["local", "launcher", "kuberay"]
    name: str
    file: Path
    groups: tuple[NodeGroup, ...]
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def head(self) -> NodeGroup:
        """The head's group."""
        return next(group for group in self.groups if group.head)
