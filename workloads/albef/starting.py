"""What a fine-tuned model takes from the checkpoint that it starts from, of pre-training or of other fine-tuning.

It takes everything: student, teacher, temperature, and the queue with its pointer. As in the official code, position
embeddings are resized to the recipe's images, and features in a queue of pre-training are of no known image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workloads.albef.config import PairsConfig
from workloads.albef.model import AlbefModel, image_shape
from workloads.contract import KeyedRandom, WorkloadError
from workloads.nn.meta import without_values
from workloads.nn.momentum import NO_IMAGE
from workloads.nn.vision import resize_positions

IMAGE_IDS = "queue.idx_queue"
POSITIONS = "visual_encoder.pos_embed"


def fitted_state(config: PairsConfig, source: PairsConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the model that a run trains, from that of a checkpoint.

    Args:
        config: of the run; encoders and queue are of the sizes in `source`, images may be of another.
        source: of the checkpoint.
        state: its model.

    Raises:
        WorkloadError: when the image encoder's weights are for images of the checkpoint's size alone.
    """
    fitted = dict(state)
    if config.matches_by_image and IMAGE_IDS not in fitted:
        fitted[IMAGE_IDS] = torch.full((1, config.contrastive.queue_size), NO_IMAGE)
    if config.model.image_hw == source.model.image_hw:
        return fitted
    if config.model.vision.name is None:
        return fitted | _resized_positions(config, source, state)
    _refuse_other_shapes(config, source, state)
    return fitted


def _resized_positions(config: PairsConfig, source: PairsConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the position embeddings of student and teacher for the recipe's images."""
    height, width = source.model.image_hw
    if height != width:
        raise _size_error(source, "only position embeddings of square images can be resized")
    grid = image_shape(config.model).grid
    return {name: resize_positions(tensor, grid) for name, tensor in state.items() if name.endswith(POSITIONS)}


def _refuse_other_shapes(config: PairsConfig, source: PairsConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse a named encoder some of whose tensors depend on the image size."""
    ours = without_values(lambda: AlbefModel(config, KeyedRandom(("start",)))).state_dict()
    for name, tensor in ours.items():
        if name in state and state[name].shape != tensor.shape:
            shapes = f"{list(state[name].shape)} there and {list(tensor.shape)} here"
            raise _size_error(source, f"{name} of {config.model.vision.name} is {shapes}")


def _size_error(source: PairsConfig, reason: str) -> WorkloadError:
    size = source.model.image_size
    text = size if isinstance(size, int) else list(size or ())
    return WorkloadError(f"model.image_size: {reason}; set model.image_size={str(text).replace(' ', '')}")
