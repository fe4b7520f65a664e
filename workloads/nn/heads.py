"""BERT with its masked-language head.

Shapes: M masked tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.nn.bert import Bert


class Transform(nn.Module):
    """Linear map, exact GELU and LayerNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states_MD: Tensor) -> Tensor:
        """Return [M, D]."""
        transformed: Tensor = self.LayerNorm(F.gelu(self.dense(states_MD)))
        return transformed


class Predictions(nn.Module):
    """Scores of every word piece; the matrix is that of the word embeddings and is passed in, not registered."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = Transform(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states_MD: Tensor, words_VD: Tensor) -> Tensor:
        """Return logits [M, V]."""
        return F.linear(self.transform(states_MD), words_VD, self.bias)


class LanguageHead(nn.Module):
    """Holds the predictions under the name that checkpoints use."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.predictions = Predictions(width, vocabulary)


class BertWithHead(nn.Module):
    """BERT (`bert`) and its masked-language head (`cls.predictions`), tied to the word embeddings."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        vocabulary, width = bert.embeddings.word_embeddings.weight.shape
        self.bert = bert
        self.cls = LanguageHead(width, vocabulary)

    def word_logits(self, states_MD: Tensor) -> Tensor:
        """Return logits [M, V] of the hidden states of masked tokens."""
        logits: Tensor = self.cls.predictions(states_MD, self.bert.embeddings.word_embeddings.weight)
        return logits
