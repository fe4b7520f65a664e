"""Many texts with one image, in inference: no padding, the image's keys and values once, the last layer for [CLS].

The result of a text depends neither on the texts beside it nor on how they were cut into batches; in float64 not even
in the last bit. What would break that on a CPU, measured with MKL and oneDNN on AVX2:

- The last rows of a matrix product, those beyond a multiple of four, are summed in another order than the rows before
  them. So layers run on groups of a fixed number of rows, filled up with copies of a token; at a fixed shape a row's
  result did not depend on its place.
- Attention over zero-padded keys differs from attention over the keys alone, since the padding changes how softmax and
  product are summed. So a text's keys are padded to a multiple of `KEY_MULTIPLE`, whatever the other texts are, and the
  texts of a group have the same padding.
- A batch of small attentions without such padding may be computed unlike a single one.

Shapes: T texts, G texts of a group and fillers, S tokens of all texts without padding, R rows of a group, P texts of a
group with their places filled up, L tokens of a padded text, N image tokens, D text width, C image width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.nn.attention import KeysValues, TokenLayout
from workloads.nn.bert import Bert

Pooling = Literal["cls", "mean"]

KEY_MULTIPLE = 32
"""Texts are padded to a multiple of this in their own self-attention."""


class PackedTexts(NamedTuple):
    """Encoded texts, one after the other without padding.

    Args:
        states_SD: states before the first cross-attention: self-attention of the first fusion layer is done.
        length_T: int64 on the CPU: tokens of each text.
    """

    states_SD: Tensor
    length_T: Tensor


class GroupShape(NamedTuple):
    """How many texts run through a layer together.

    Args:
        rows: tokens of a group, fillers included; a longer text makes a group of a multiple of it.
        texts: most texts of a group.
    """

    rows: int
    texts: int

    @classmethod
    def of_device(cls, device: torch.device) -> GroupShape:
        """Return the shape for a device: on a CPU what its caches hold."""
        return cls(256, 32) if device.type == "cpu" else cls(16384, 2048)


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts that run through the layers together.

    Args:
        text_G: numbers of the texts, without the fillers.
        tokens: of these texts.
        layout: of the texts and, after them, of the fillers.
        token_R: which of the S tokens each row holds; fillers hold the first.
        position_R: place of each row in its text.
        cls_P: row of each text's [CLS]; fillers hold the first.
        row_P: row of the layout of each of these.
    """

    text_G: Tensor
    tokens: int
    layout: TokenLayout
    token_R: Tensor
    position_R: Tensor
    cls_P: Tensor
    row_P: Tensor


def text_groups(length_T: Tensor, shape: GroupShape, device: torch.device) -> Iterator[TextGroup]:
    """Cut texts into groups of one shape, in their order among the texts of equal padding.

    Args:
        length_T: int64 on the CPU.
        shape: of the groups.
        device: of their indices.
    """
    lengths = length_T.numpy()
    starts = np.cumsum(lengths) - lengths
    padded = -(-lengths // KEY_MULTIPLE) * KEY_MULTIPLE
    for width in np.unique(padded).tolist():
        for text_G in _cut(np.flatnonzero(padded == width), lengths, shape):
            yield _group(text_G, starts[text_G], lengths[text_G], width, shape, device)


def encode_packed(
    bert: Bert, ids_S: Tensor, length_T: Tensor, pooling: Pooling = "cls", shape: GroupShape | None = None
) -> tuple[Tensor, Tensor]:
    """Return the states of `PackedTexts`, [S, D], and what stands for each text after the text layers, [T, D].

    Args:
        bert: in evaluation mode.
        ids_S: token ids of all texts.
        length_T: int64 on the CPU.
        pooling: whether [CLS] stands for a text, or the mean of its tokens.
        shape: of the groups; that of the device unless given.
    """
    text_layers, fusion_layers = bert.text_fusion_layers()
    width = bert.embeddings.word_embeddings.embedding_dim
    states_SD = bert.embeddings.word_embeddings.weight.new_empty(len(ids_S), width)
    pooled_TD = states_SD.new_empty(len(length_T), width)
    for group in text_groups(length_T, shape or GroupShape.of_device(ids_S.device), ids_S.device):
        states_RD = bert.embeddings.packed(bert.words(ids_S[group.token_R]), group.position_R)
        for layer in text_layers:
            states_RD = layer.feed_forward(layer.attend_text(states_RD, group.layout))
        pooled_TD[group.text_G] = _pooled(states_RD, group, pooling)
        own_S = group.token_R[: group.tokens]
        states_SD[own_S] = fusion_layers[0].attend_text(states_RD, group.layout)[: group.tokens]
    return states_SD, pooled_TD


def image_contexts(bert: Bert, image_NC: Tensor) -> list[KeysValues]:
    """Return one image's keys and values, [1, heads, N, D / heads] each, of every fusion layer."""
    layout = TokenLayout.dense(1, len(image_NC), image_NC.device)
    return [layer.crossattention.self.keys_values(image_NC, layout) for layer in bert.text_fusion_layers()[1]]


def fuse_packed(
    bert: Bert, states_SD: Tensor, length_T: Tensor, image_NC: Tensor, shape: GroupShape | None = None
) -> Tensor:
    """Return the states of [CLS] of every text after the fusion layers, [T, D].

    It equals `Bert.fuse` of each text with the image, up to rounding.

    Args:
        bert: in evaluation mode.
        states_SD: of `PackedTexts`.
        length_T: likewise.
        image_NC: tokens of one image.
        shape: of the groups; that of the device unless given.
    """
    contexts = image_contexts(bert, image_NC)
    cls_TD = states_SD.new_empty(len(length_T), states_SD.shape[1])
    for group in text_groups(length_T, shape or GroupShape.of_device(states_SD.device), states_SD.device):
        fused_PD = _fuse_group(bert, states_SD.index_select(0, group.token_R), group, contexts)
        cls_TD[group.text_G] = fused_PD[: len(group.text_G)]
    return cls_TD


def pack(rows_TL: Tensor, length_T: Tensor) -> Tensor:
    """Return the first `length_T[i]` of each row i, one after the other, [S]."""
    return rows_TL[torch.arange(rows_TL.shape[1], device=rows_TL.device) < length_T[:, None].to(rows_TL.device)]


def in_full_rows(function: Callable[[Tensor], Tensor], rows_TF: Tensor) -> Tensor:
    """Return a row-wise function's results, [T, ...], computed with rows filled up to a multiple of `KEY_MULTIPLE`."""
    return function(F.pad(rows_TF, (0, 0, 0, -len(rows_TF) % KEY_MULTIPLE)))[: len(rows_TF)]


def _pooled(states_RD: Tensor, group: TextGroup, pooling: Pooling) -> Tensor:
    """Return what stands for each text of a group, [G, D]."""
    texts = len(group.text_G)
    if pooling == "cls":
        return states_RD[group.cls_P[:texts]]
    length_G1 = group.layout.mask_RL[:texts].sum(1, keepdim=True)
    return group.layout.unpack(states_RD)[:texts].sum(1) / length_G1


def _fuse_group(bert: Bert, states_RD: Tensor, group: TextGroup, contexts: Sequence[KeysValues]) -> Tensor:
    """Return the final states of the group's [CLS] tokens, [P, D], fillers included."""
    layers = bert.text_fusion_layers()[1]
    *lower, last = zip(layers, contexts, strict=True)
    for layer, context in lower:
        if layer is not layers[0]:
            states_RD = layer.attend_text(states_RD, group.layout)
        states_RD = layer.attend_keys(states_RD, context)
    layer, context = last
    states_PD = states_RD.index_select(0, group.cls_P)
    if layer is not layers[0]:
        states_PD = layer.attend_text_selected(states_PD, group.row_P, states_RD, group.layout)
    return layer.attend_keys(states_PD, context)


def _cut(texts: np.ndarray, lengths: np.ndarray, shape: GroupShape) -> Iterator[np.ndarray]:
    """Yield consecutive texts that fit into a group."""
    ends = np.cumsum(lengths[texts])
    first = 0
    while first < len(texts):
        before = ends[first - 1] if first else 0
        fitting = int(np.searchsorted(ends, before + shape.rows, side="right")) - first
        count = min(max(fitting, 1), shape.texts)
        yield texts[first : first + count]
        first += count


def _group(
    text_G: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int, shape: GroupShape, device: torch.device
) -> TextGroup:
    tokens = int(lengths.sum())
    fillers = _filler_lengths(-tokens % shape.rows, int(lengths.max()))
    every = np.concatenate([lengths, fillers])
    position_R = np.arange(every.sum()) - np.repeat(np.cumsum(every) - every, every)
    token_R = np.zeros(len(position_R), dtype=np.int64)
    token_R[:tokens] = np.repeat(starts, lengths) + position_R[:tokens]
    row_P = np.zeros(shape.texts, dtype=np.int64)
    row_P[: len(text_G)] = np.arange(len(text_G))
    mask_GL = np.arange(width) < every[:, None]
    index_R = np.flatnonzero(mask_GL)
    layout = TokenLayout(_tensor(mask_GL, device), _tensor(index_R, device), True)
    cls_P = (np.cumsum(every) - every)[row_P]
    return TextGroup(
        _tensor(text_G, device),
        tokens,
        layout,
        _tensor(token_R, device),
        _tensor(position_R, device),
        _tensor(cls_P, device),
        _tensor(row_P, device),
    )


def _filler_lengths(tokens: int, longest: int) -> np.ndarray:
    full, rest = divmod(tokens, longest)
    return np.array([longest] * full + [rest] * (rest > 0), dtype=np.int64)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
