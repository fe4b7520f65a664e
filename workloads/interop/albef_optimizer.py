"""The optimiser's state in official ALBEF checkpoints, where parameters are counted instead of named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workloads.interop.albef_layout import Layout

ASIDE = "optimizer/"
"""What the names of kept-aside optimiser state begin with; then come entry and official name."""


class UnknownOptimizer(Exception):
    """The file's optimiser state is not that of its parameters; the message says why."""


@dataclass
class Moments:
    """Optimiser state by name.

    Args:
        ours: of parameters that the model has, as `entry/parameter`.
        aside: of other parameters, as `optimizer/entry/parameter` with the official name.
        left_out: official names of parameters whose state no longer fits.
        numbers: entries that the file keeps as plain numbers.
    """

    ours: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)


def read_moments(
    optimizer: Mapping[str, Any], trained: Sequence[str], layout: Layout, shapes: Mapping[str, torch.Size]
) -> Moments:
    """Return the optimiser's state by parameter name.

    Args:
        optimizer: the state_dict of a torch optimiser.
        trained: official parameter names in the optimiser's order.
        layout: their layout.
        shapes: of the model's tensors, by our names.

    Raises:
        UnknownOptimizer: when the state is of other parameters.
    """
    try:
        counted = [index for group in optimizer["param_groups"] for index in group["params"]]
        state: Mapping[int, Mapping[str, Any]] = optimizer["state"]
    except (KeyError, TypeError) as error:
        raise UnknownOptimizer("it is not the state of a torch optimiser") from error
    if counted != list(range(len(trained))):
        raise UnknownOptimizer(f"it is of {len(counted)} parameters and the model has {len(trained)}")
    moments = Moments()
    for index, entries in state.items():
        _add(moments, trained[index], entries, layout.our_name(trained[index]), shapes)
    return moments


def _add(
    moments: Moments, official: str, entries: Mapping[str, Any], our: str | None, shapes: Mapping[str, torch.Size]
) -> None:
    tensors = {entry: _tensor(official, value) for entry, value in entries.items()}
    moments.numbers += [
        entry for entry, value in entries.items() if not isinstance(value, Tensor) and entry not in moments.numbers
    ]
    if our is None or our not in shapes:
        moments.aside |= {f"{ASIDE}{entry}/{official}": tensor for entry, tensor in tensors.items()}
    elif any(tensor.ndim and tensor.shape != shapes[our] for tensor in tensors.values()):
        moments.left_out.append(official)
    else:
        moments.ours |= {f"{entry}/{our}": tensor.contiguous() for entry, tensor in tensors.items()}


def _tensor(official: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise UnknownOptimizer(f"the state of {official} holds a {type(value).__name__}")


def write_moments(
    moments: Mapping[str, Tensor],
    aside: Mapping[str, Tensor],
    trained: Sequence[str],
    layout: Layout,
    numbers: Sequence[str],
) -> dict[int, dict[str, Any]]:
    """Return the `state` of the official optimiser: what `read_moments` took apart.

    Args:
        moments: by our names, as `entry/parameter`.
        aside: kept-aside tensors, of which those that begin with `optimizer/` count.
        trained: official parameter names in the optimiser's order.
        layout: their layout.
        numbers: entries to write as whole numbers.
    """
    kept = {key.removeprefix(ASIDE): tensor for key, tensor in aside.items() if key.startswith(ASIDE)}
    by_name: dict[str, dict[str, Any]] = {}
    for key, tensor in (*moments.items(), *kept.items()):
        entry, _, name = key.partition("/")
        by_name.setdefault(name, {})[entry] = int(tensor) if entry in numbers else tensor
    state: dict[int, dict[str, Any]] = {}
    for index, official in enumerate(trained):
        entries = by_name.get(official) or by_name.get(layout.our_name(official) or "")
        if entries:
            state[index] = {entry: entries[entry] for entry in sorted(entries, key=_entry_order)}
    return state


def _entry_order(entry: str) -> tuple[bool, str]:
    return entry != "step", entry
