"""Counting floating-point operations, those that only a CPU's kernels do included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """Return a context that counts the operations of matrix products, convolutions and attention.

    torch's own counter does not know the kernels of a CPU for attention and for linear maps (oneDNN).
    """
    return FlopCounterMode(display=False, custom_mapping=dict(_cpu_kernels()))


def count_flops(action: Callable[[], object]) -> int:
    """Return the floating-point operations of an action."""
    with flop_counter() as counter:
        action()
    return int(counter.get_total_flops())


def _cpu_kernels() -> Mapping[Any, Callable[..., int]]:
    aten = torch.ops.aten
    known: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        known[torch.ops.mkldnn._linear_pointwise] = _linear
    return known


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _linear(states: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * int(math.prod(states)) * int(weight[0])
