"""Post-norm multi-head attention with BERT's parameter names.

Shapes: R rows, L query tokens, M key tokens, D width, C width of the context, H heads, K width of a head.
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

    def rows(self, index_R: Tensor) -> KeysValues:
        """Return the keys and values of the given rows."""
        return KeysValues(self.key[index_R], self.value[index_R])


class Projections(nn.Module):
    """The linear maps to queries, keys and values.

    Args:
        width: of the queries.
        context_width: of what they attend to.
        heads: attention heads; must divide `width`.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)

    def queries(self, states_RLD: Tensor) -> Tensor:
        """Return queries [R, H, L, K]."""
        return self._split(self.query(states_RLD))

    def keys_values(self, context_RMC: Tensor) -> KeysValues:
        """Return keys and values [R, H, M, K]."""
        return KeysValues(self._split(self.key(context_RMC)), self._split(self.value(context_RMC)))

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.heads, states.shape[2] // self.heads).transpose(1, 2)


class ResidualOutput(nn.Module):
    """Linear map, dropout, residual connection and LayerNorm, in this order."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, states_RLF: Tensor, residual_RLD: Tensor) -> Tensor:
        """Return [R, L, D]."""
        hidden_RLD = F.dropout(self.dense(states_RLF), self.dropout, self.training)
        normed: Tensor = self.LayerNorm(hidden_RLD + residual_RLD)
        return normed


class Attention(nn.Module):
    """Attention to a context (the states themselves, or image tokens) with its residual and LayerNorm."""

    def __init__(self, width: int, context_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = Projections(width, context_width, heads)
        self.output = ResidualOutput(width, width, dropout)
        self.dropout = dropout

    def forward(
        self, states_RLD: Tensor, context: KeysValues, mask_R11M: Tensor | None, record: list[Tensor] | None = None
    ) -> Tensor:
        """Return [R, L, D].

        Args:
            states_RLD: what asks.
            context: what answers.
            mask_R11M: True where the context may be attended to; None for everywhere.
            record: when given, receives the attention probabilities [R, H, L, M], part of the graph.
        """
        query_RHLK = self.self.queries(states_RLD)
        dropout = self.dropout if self.training else 0.0
        if record is None:
            mixed_RHLK = F.scaled_dot_product_attention(query_RHLK, *context, attn_mask=mask_R11M, dropout_p=dropout)
        else:
            record.append(attention_probabilities(query_RHLK, context.key, mask_R11M))
            mixed_RHLK = F.dropout(record[-1], dropout, self.training) @ context.value
        merged: Tensor = self.output(mixed_RHLK.transpose(1, 2).flatten(2), states_RLD)
        return merged


def attention_probabilities(query_RHLK: Tensor, key_RHMK: Tensor, mask_R11M: Tensor | None) -> Tensor:
    """Return softmax(query key^T / sqrt(K)), [R, H, L, M] (Vaswani et al. 2017, equation 1)."""
    scores_RHLM = query_RHLK @ key_RHMK.transpose(-1, -2) / math.sqrt(query_RHLK.shape[-1])
    if mask_R11M is not None:
        scores_RHLM = scores_RHLM.masked_fill(~mask_R11M, -torch.inf)
    return scores_RHLM.softmax(-1)
