"""Multi-head attention of BERT: post-norm, over texts packed without their padding, with dropout that is fast on a CPU.

Parameters are named as in transformers.

Shapes: R rows, L query tokens of a row, M key tokens of a row, S query tokens of all rows without padding, D width,
C width of the context, H heads, K width of a head, F features of a token.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeysValues(NamedTuple):
    """Keys and values of a context, [R, H, M, K] each."""

    key: Tensor
    value: Tensor

    def select(self, index_R: Tensor) -> KeysValues:
        """Return the keys and values of the given rows."""
        return KeysValues(self.key.index_select(0, index_R), self.value.index_select(0, index_R))


class QKVProjections(nn.Module):
    """The linear maps to queries, keys and values.

    Args:
        width: of the queries, D.
        context_width: of the context that they attend to, C.
        heads: attention heads; must divide `width`.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)

    def queries(self, states_SD: Tensor, layout: TokenLayout) -> Tensor:
        """Return queries [R, H, L, K]."""
        return self._heads(layout.unpack(self.query(states_SD)))

    def keys_values(self, context_SC: Tensor, layout: TokenLayout) -> KeysValues:
        """Return keys and values [R, H, M, K] of a context in this layout."""
        key_RMD, value_RMD = layout.unpack(self.key(context_SC)), layout.unpack(self.value(context_SC))
        return KeysValues(self._heads(key_RMD), self._heads(value_RMD))

    def _heads(self, states_RLD: Tensor) -> Tensor:
        rows, length, width = states_RLD.shape
        return states_RLD.view(rows, length, self.heads, width // self.heads).transpose(1, 2)


class ResidualOutput(nn.Module):
    """Linear map, dropout, residual connection and LayerNorm, in this order."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, states_SF: Tensor, residual_SD: Tensor) -> Tensor:
        """Return [S, D]."""
        hidden_SD = dropout(self.dense(states_SF), self.dropout, self.training)
        normed: Tensor = self.LayerNorm(hidden_SD + residual_SD)
        return normed


class Attention(nn.Module):
    """Attention to a context (the states themselves, or image tokens) with its residual and LayerNorm."""

    def __init__(self, width: int, context_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = QKVProjections(width, context_width, heads)
        self.output = ResidualOutput(width, width, dropout)
        self.dropout = dropout

    def forward(
        self,
        states_SD: Tensor,
        layout: TokenLayout,
        context: KeysValues,
        mask_RM: Tensor | None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Return [S, D].

        Args:
            states_SD: the states that queries are computed from.
            layout: their layout.
            context: keys and values, those of row i for the queries of row i.
            mask_RM: True where the context may be attended to; None for everywhere.
            record: when given, receives the attention probabilities [R, H, L, M], part of the graph.
        """
        query_RHLK = self.self.queries(states_SD, layout)
        mask_R11M = None if mask_RM is None else mask_RM[:, None, None]
        chance = self.dropout if self.training else 0.0
        if record is None and not (chance and query_RHLK.device.type == "cpu"):
            mixed_RHLK = F.scaled_dot_product_attention(query_RHLK, *context, attn_mask=mask_R11M, dropout_p=chance)
        else:  # torch's fused attention has no dropout on a CPU
            probabilities_RHLM = attention_probabilities(query_RHLK, context.key, mask_R11M)
            mixed_RHLK = dropout(probabilities_RHLM, chance, self.training) @ context.value
            if record is not None:
                record.append(probabilities_RHLM)
        merged: Tensor = self.output(layout.pack(mixed_RHLK.transpose(1, 2).flatten(2)), states_SD)
        return merged


def attention_probabilities(query_RHLK: Tensor, key_RHMK: Tensor, mask_R11M: Tensor | None) -> Tensor:
    """Return softmax(query key^T / sqrt(K)), [R, H, L, M] (Vaswani et al. 2017, equation 1)."""
    scores_RHLM = (query_RHLK / math.sqrt(query_RHLK.shape[-1])) @ key_RHMK.transpose(-1, -2)
    if mask_R11M is not None:
        scores_RHLM = scores_RHLM + torch.zeros_like(mask_R11M, dtype=scores_RHLM.dtype).masked_fill(
            ~mask_R11M, -torch.inf
        )
    return scores_RHLM.softmax(-1)


class TokenLayout(NamedTuple):
    """Which of the R * L positions of a padded batch the layers compute, packed into one dimension [S].

    Args:
        mask_RL: True at tokens, False at padding.
        index_S: positions that are computed, as indices into R * L, ascending; None for all positions.
        has_padding: whether padding may be among them.
    """

    mask_RL: Tensor
    index_S: Tensor | None
    has_padding: bool

    @classmethod
    def packed(cls, mask_RL: Tensor) -> TokenLayout:
        """Compute tokens only."""
        index_S = mask_RL.flatten().nonzero().squeeze(1)
        return cls(mask_RL, None, False) if len(index_S) == mask_RL.numel() else cls(mask_RL, index_S, True)

    @classmethod
    def padded(cls, mask_RL: Tensor) -> TokenLayout:
        """Compute padding as well, so that shapes depend on the longest text only."""
        return cls(mask_RL, None, True)

    @classmethod
    def dense(cls, rows: int, length: int, device: torch.device) -> TokenLayout:
        """Rows of equal length, without padding."""
        return cls(torch.ones(rows, length, dtype=torch.bool, device=device), None, False)

    @property
    def keys_RL(self) -> Tensor | None:
        """True at the keys that may be attended to; None for all."""
        return self.mask_RL if self.has_padding else None

    def pack(self, states_RLF: Tensor) -> Tensor:
        """Return the features of the computed positions, [S, F]."""
        states = states_RLF.flatten(0, 1)
        return states if self.index_S is None else states.index_select(0, self.index_S)

    def unpack(self, states_SF: Tensor) -> Tensor:
        """Return [R, L, F] with zeros at positions that are not computed."""
        shape = (*self.mask_RL.shape, states_SF.shape[1])
        if self.index_S is None:
            return states_SF.view(shape)
        empty = states_SF.new_zeros(self.mask_RL.numel(), states_SF.shape[1])
        return empty.index_copy(0, self.index_S, states_SF).view(shape)

    def packed_index(self, row: Tensor, token: Tensor) -> Tensor:
        """Return the indices into [S] of computed tokens given by their row and their position in it."""
        index = row * self.mask_RL.shape[1] + token
        return index if self.index_S is None else torch.searchsorted(self.index_S, index)

    def select_rows(self, row_Q: Tensor) -> tuple[TokenLayout, Tensor]:
        """Return the layout of these rows, which may repeat, and the indices of its tokens into this layout's [S]."""
        length = self.mask_RL.shape[1]
        mask_QL = self.mask_RL.index_select(0, row_Q)
        every = torch.arange(mask_QL.numel(), device=row_Q.device)
        index_S = every if self.index_S is None else mask_QL.flatten().nonzero().squeeze(1)
        layout = TokenLayout(mask_QL, None if self.index_S is None else index_S, self.has_padding)
        return layout, self.packed_index(row_Q[index_S // length], index_S % length)


LEVELS = 2**16
"""The dropout probability is rounded to a multiple of 1 / LEVELS on a CPU: each element takes 16 random bits."""


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements with a probability and scale the others up (Srivastava et al. 2014), in training only.

    On a CPU, torch draws one number per element in a single thread; this draws one 64-bit number per four elements.
    """
    if not training or probability == 0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, probability, training=True)
    return states * _mask(states, probability)


def _mask(like: Tensor, probability: float) -> Tensor:
    """Return zeros and 1 / (1 - probability), in the shape and dtype of `like`."""
    dropped = round(probability * LEVELS)
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: like.numel()].view(like.shape)
    mask = torch.ge(bits, dropped - LEVELS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return mask.mul_(LEVELS / (LEVELS - dropped))
