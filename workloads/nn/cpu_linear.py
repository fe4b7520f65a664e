"""Float32 linear maps on a CPU through oneDNN.

For these torch calls its BLAS library, which is slower than oneDNN at most of the sizes used here; for convolutions and
half precision torch calls oneDNN itself.

Shapes: F inputs, G outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def cpu_linear(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `torch.nn.functional.linear` uses oneDNN for float32 on a CPU."""
    return _OneDnnLinear() if device.type == "cpu" and torch.backends.mkldnn.is_available() else nullcontext()


class _OneDnnLinear(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and not kwargs and _fits(*args):
            return _Linear.apply(*args)
        return func(*args, **(kwargs or {}))


def _fits(states: Tensor, weight_GF: Tensor, bias_G: Tensor | None = None) -> bool:
    plain = states.dtype == weight_GF.dtype == torch.float32 and states.device.type == "cpu" and states.numel() > 0
    return plain and bias_G is not None and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight_GF: Tensor, bias_G: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight_GF)
        return _multiply(states, weight_GF, bias_G)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight_GF = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight_GF.t(), None) if of_states else None,
            rows.t() @ states.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _multiply(states: Tensor, weight_GF: Tensor, bias_G: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight_GF, bias_G, "none", [], "")
    return product
