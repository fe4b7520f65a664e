"""Modules without values: built on torch's meta device, for their names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workloads.contract import WorkloadError

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def on_meta(build: Callable[[], AnyModule]) -> AnyModule:
    """Return the module that `build` makes, without allocating or drawing its values."""
    with torch.device("meta"), _SkipInit():
        return build()


def without_values(build: Callable[[], AnyModule]) -> AnyModule:
    """Return the module that `build` makes, on the meta device unless it needs values while it is made."""
    try:
        return on_meta(build)
    except (RuntimeError, WorkloadError):
        return build()


class _SkipInit(TorchFunctionMode):
    """Skips the random initialisation of parameters, which takes long even on the meta device."""

    INITIALISERS = frozenset(
        getattr(Tensor, name) for name in ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_")
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.INITIALISERS else func(*args, **(kwargs or {}))
