"""The workload against the same mathematics written the plain way, the peer of the benchmark."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain import plain_losses
from torch import Tensor

from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock


@pytest.mark.parametrize("fusion_layers", [1, 3])
@pytest.mark.parametrize("compute", [{}, {"packed": False, "length_multiple": 4, "masked_multiple": 8}])
def test_losses_and_gradients_equal_the_plain_step(
    small: Callable[..., AlbefWorkload],
    micro_batch: dict[str, Tensor],
    clock: Callable[[int], Clock],
    fusion_layers: int,
    compute: dict[str, Any],
) -> None:
    workload = small(model={"text": {"layers": 2, "fusion_layers": fusion_layers}}, compute=compute)
    parameters = dict(workload.model.student.named_parameters())
    losses, image_BE, text_BE = plain_losses(workload.model, micro_batch, workload.choices(clock(1)), alpha=0.4)
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(parameters.values()))

    result = workload.micro_step(micro_batch, clock(1), lambda loss, **_: loss.backward())
    for name, loss in losses.items():
        torch.testing.assert_close(result.metrics[name], loss.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(result.shared, {"image_features": image_BE, "text_features": text_BE})
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=1e-7, atol=1e-10, msg=name)
