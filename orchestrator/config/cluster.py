"""What a cluster YAML becomes: the machines that a run may have, whoever starts them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.errors import ConfigError

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


# What an autoscaling cluster can become, handed to whoever runs on it: Ray itself does not tell.
#
# Whoever submits a run knows the cluster's file; the run's driver, on the cluster, does not. The variable
# `FUSERAY_MACHINES` of the driver's environment carries the groups of machines from one to the other.


MACHINES_VARIABLE = "FUSERAY_MACHINES"


def node_groups_variable(groups: Iterable[NodeGroup]) -> dict[str, str]:
    """Return the variable that tells a driver which machines its cluster can have."""
    return {MACHINES_VARIABLE: json.dumps([asdict(group) for group in groups], separators=(",", ":"))}


def read_node_groups(environment: Mapping[str, str]) -> tuple[NodeGroup, ...] | None:
    """Return the machines that the cluster can have, None when nobody said.

    Raises:
        ConfigError: the variable holds something else.
    """
    text = environment.get(MACHINES_VARIABLE)
    if not text:
        return None
    try:
        return tuple(NodeGroup(**group) for group in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{MACHINES_VARIABLE}: does not list groups of machines ({error}); "
            "`fuseray submit` sets it, unset it otherwise."
        ) from error


# What a model takes of a GPU and of time, as measured on a CPU with small micro-batches.


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The model of a recipe in figures, all for one worker that holds the whole of it.

    Args:
        trained_bytes: parameters that are trained; gradients take the same again, AdamW's two moments twice that.
        kept_bytes: parameters that are not trained, such as a teacher.
        buffer_bytes: buffers, such as a queue of features.
        fixed_bytes: the part of the activations that does not grow with the micro-batch.
        sample_bytes: what every sample of a micro-batch adds to the activations.
        flop_per_sample: of the matrix products and convolutions of a step, averaged over the run.
        cpu_samples_per_s: samples per second that the measuring machine's CPUs train on, without reading data; None
            when the recipe trains on GPUs.
        cpus: how many CPUs that were.
        sizes: of the micro-batches that were run.
        seconds: that measuring took.
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
        """Return the activations of a micro-batch at their peak: linear in its size."""
        return self.fixed_bytes + self.sample_bytes * micro_batch_size
