"""Locked layers: they keep their weights, and a momentum teacher shares what they compute with its student.

A locked layer takes no gradient and is in evaluation mode. The student's records its outputs while it encodes a
micro-batch, and a stand-in without parameters gives them to the teacher, which so neither holds nor runs the layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

from workloads.nn.timm_encoder import whole_modules


class SharedOutputs:
    """What the locked layers of a student made of the newest micro-batch, by the layers' names, in order of calls."""

    def __init__(self) -> None:
        self._outputs: dict[str, deque[Tensor]] = {}
        self._recording = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget the last outputs, and record those of the layers that run inside the context."""
        self._outputs.clear()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False

    def record(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        """Keep an output while recording; a forward hook. Later layers may write into the original."""
        if self._recording:
            self._outputs.setdefault(name, deque()).append(output.detach().clone())

    def take(self, name: str) -> Tensor:
        """Return the next output of a layer, once."""
        return self._outputs[name].popleft()


class StandIn(nn.Module):
    """Returns what another model's layer made of the same images; has no parameters.

    Args:
        outputs: of the other model.
        name: of the layer there.
    """

    def __init__(self, outputs: SharedOutputs, name: str) -> None:
        super().__init__()
        self._outputs, self._name = outputs, name

    def forward(self, *inputs: object, **options: object) -> Tensor:
        """Return the layer's output; the inputs are not used."""
        return self._outputs.take(self._name)


def share_locked(student: nn.Module, teacher: nn.Module, parameters: Sequence[str]) -> SharedOutputs:
    """Lock parameters of a student and put stand-ins in the place of the teacher's layers that consist of them.

    Args:
        student: whose locked layers record their outputs.
        teacher: of the same structure; parameters outside of such layers, for example position embeddings, stay.
        parameters: their names.
    """
    outputs = SharedOutputs()
    for name in parameters:
        student.get_parameter(name).requires_grad_(False)
    for name, layer in list(whole_modules(student, parameters)):
        layer.register_forward_hook(partial(outputs.record, name))
        teacher.set_submodule(name, StandIn(outputs, name))
    return outputs
