"""A cluster as its YAML describes it: node groups, how a driver learns of them, and a model's measured footprint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.errors import ConfigError

Market = Literal["spot", "on-demand", "owned"]
"""How nodes are paid for; `owned` ones are neither billed nor preempted."""

MACHINE_LABEL = "fuseray.io/machine"
"""Ray node label: the machine type as a key of the price table, such as p5.48xlarge."""

MARKET_LABEL = "ray.io/market-type"
"""Ray node label: spot or on-demand, in Ray's words."""

MACHINES_VARIABLE = "FUSERAY_MACHINES"
"""Environment variable of the driver with the cluster's node groups as JSON.

`fuseray submit` sets it, because Ray does not tell a driver on the cluster which nodes the autoscaler may add.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Nodes of one type.

    Args:
        name: as in the file.
        machine: machine type, a key of the price table; None when the file does not say.
        market: how the nodes are paid for.
        fewest: minimum number of nodes.
        most: maximum number of nodes.
        cpus: of one node, as Ray counts them; None when only the node itself knows.
        gpus: of one node.
        head: whether this is Ray's head node, on which drivers run.
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
        kind: what starts it: this machine, Ray's cluster launcher, or KubeRay.
        name: the cluster's name.
        file: absolute path of the file.
        groups: its node groups; exactly one is the head.
        settings: the file's content, with environment variables not substituted.
    """

    kind: Literal["local", "launcher", "kuberay"]
    name: str
    file: Path
    groups: tuple[NodeGroup, ...]
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def head(self) -> NodeGroup:
        """The head node's group."""
        return next(group for group in self.groups if group.head)


def node_groups_variable(groups: Iterable[NodeGroup]) -> dict[str, str]:
    """Return the environment variable that tells a driver which nodes its cluster can have."""
    return {MACHINES_VARIABLE: json.dumps([asdict(group) for group in groups], separators=(",", ":"))}


def read_node_groups(environment: Mapping[str, str]) -> tuple[NodeGroup, ...] | None:
    """Return the nodes that the cluster can have; None when the variable is not set.

    Raises:
        ConfigError: the variable is not a list of node groups.
    """
    text = environment.get(MACHINES_VARIABLE)
    if not text:
        return None
    try:
        return tuple(NodeGroup(**group) for group in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{MACHINES_VARIABLE}: does not list groups of machines ({error}); "
            "`fuseray submit RECIPE --cluster CLUSTER` sets it, unset it otherwise."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory and arithmetic of a recipe's model on one worker that holds all of it.

    Measured on a CPU with small micro-batches.

    Args:
        trained_bytes: trained parameters; gradients take the same again, AdamW's optimizer state twice that.
        kept_bytes: parameters that are not trained, such as a momentum copy's.
        buffer_bytes: buffers, such as a feature queue.
        fixed_bytes: the part of the activations that does not grow with the micro-batch.
        sample_bytes: activations per sample of a micro-batch.
        flop_per_sample: of a step's matrix products and convolutions, averaged over the run.
        cpu_samples_per_s: training samples per second of the measuring machine's CPUs, without reading data; None
            when the recipe trains on GPUs.
        cpus: number of those CPUs.
        sizes: micro-batch sizes that were run.
        seconds: duration of the measurement.
    """

    trained_bytes: int
    kept_bytes: int
    buffer_bytes: int
    fixed_bytes: int
    sample_bytes: int
    flop_per_sample: float
    cpu_samples_per_s: float | None
    cpus: int
    sizes: tuple[int, ...]
    seconds: float

    def activation_bytes(self, micro_batch_size: int) -> int:
        """Return the peak activation memory of a micro-batch, which is linear in its size."""
        return self.fixed_bytes + self.sample_bytes * micro_batch_size
