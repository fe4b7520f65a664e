"""Locked layers: they keep their weights, and a momentum teacher shares what they compute with its student.

A locked layer takes no gradient and is in evaluation mode. The student's records its outputs while it encodes a
micro-batch, and a stand-in without parameters gives them to the teacher, which so neither holds nor runs the layer.
That takes an encoder whose locked layers run before all trained ones and return tensors, and whose code does not ask
for the layers' types; `check_sharing` finds out.

Shapes: B images, H and W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.nn.meta import on_meta
from workloads.nn.timm_encoder import REFUSALS, block_parameters, create_encoder, encode_images, whole_modules
from workloads.nn.vision import ImageSize

LOCK_KEY = "model.lock.vision"


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

    def record(self, name: str, module: nn.Module, inputs: object, output: object) -> None:
        """Keep an output while recording; a forward hook. Later layers may write into the original.

        Raises:
            TypeError: it is not a tensor.
            ValueError: trained layers had a part in it, so that the teacher's would differ.
        """
        if not self._recording:
            return
        if not isinstance(output, Tensor):
            raise TypeError(f"{name} returns a {type(output).__name__}")
        if output.requires_grad:
            raise ValueError(f"{name} runs after layers that are trained")
        self._outputs.setdefault(name, deque()).append(output.clone())

    def take(self, name: str) -> Tensor:
        """Return the next output of a layer, once.

        Raises:
            ValueError: there is none.
        """
        outputs = self._outputs.get(name)
        if not outputs:
            raise ValueError(f"{name} did not run in the student")
        return outputs.popleft()


class StandIn(nn.Module):
    """Returns what another model's layer made of the same images; has no parameters.

    Its other attributes, for example the grid of a patch embedding, are those of the layer.

    Args:
        outputs: of the other model.
        name: of the layer there.
        layer: the layer.
    """

    def __init__(self, outputs: SharedOutputs, name: str, layer: nn.Module) -> None:
        super().__init__()
        self._outputs, self._name = outputs, name
        self._layer = (layer,)  # in a tuple, so that its parameters do not count as this module's

    def forward(self, *inputs: object, **options: object) -> Tensor:
        """Return the layer's output; the inputs are not used."""
        return self._outputs.take(self._name)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer."""
        return getattr(self.__dict__["_layer"][0], name)


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
        teacher.set_submodule(name, StandIn(outputs, name, layer))
    return outputs


def lock_first_blocks(student: nn.Module, teacher: nn.Module, trained_blocks: int) -> SharedOutputs:
    """Lock all blocks of a student but the last few and what comes before them, as `share_locked` does."""
    locked = block_parameters(student)[:-trained_blocks]
    return share_locked(student, teacher, [name for block in locked for name in block])


def check_sharing(student: nn.Module, teacher: nn.Module, outputs: SharedOutputs, size: ImageSize) -> None:
    """Check that a teacher of a student's weights, sharing its locked layers, gives the same tokens.

    Args:
        student: an encoder.
        teacher: with stand-ins.
        outputs: of `share_locked`.
        size: of the images.

    Raises:
        WorkloadError: when it does not; `model.lock.vision` cannot be a number of blocks then.
    """
    parameter = next(student.parameters())
    pixels_13HW = torch.linspace(-2, 2, 3 * size[0] * size[1], dtype=parameter.dtype, device=parameter.device)
    pixels_13HW = pixels_13HW.view(1, 3, *size)
    with _evaluating(student), _evaluating(teacher):
        try:
            with outputs.recording():
                encode_images(student, pixels_13HW)
            with torch.no_grad():
                found, expected = encode_images(teacher, pixels_13HW), encode_images(student, pixels_13HW)
        except REFUSALS as error:
            raise _not_shared(str(error)) from error
    if not parameter.is_meta and not all(
        torch.allclose(*pair, atol=1e-6) for pair in zip(found, expected, strict=True)
    ):
        raise _not_shared("the teacher's tokens would differ")


def _not_shared(why: str) -> WorkloadError:
    return WorkloadError(
        f"{LOCK_KEY}: this image encoder cannot share some of its layers with the teacher ({why}); "
        "set all, or leave it out"
    )


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)


@lru_cache
def check_lock(name: str, size: ImageSize, trained_blocks: int) -> None:
    """Check that timm's encoder of a name can have all blocks but the last few locked, without values where it allows.

    Raises:
        WorkloadError: when it cannot.
    """
    try:
        student, teacher = (on_meta(lambda: create_encoder(name, size)) for _ in range(2))
        check_sharing(student, teacher, lock_first_blocks(student, teacher, trained_blocks), size)
    except (WorkloadError, *REFUSALS):
        student, teacher = (create_encoder(name, size) for _ in range(2))
        outputs = lock_first_blocks(student, teacher, trained_blocks)
        teacher.load_state_dict(student.state_dict(), strict=False)
        check_sharing(student, teacher, outputs, size)
