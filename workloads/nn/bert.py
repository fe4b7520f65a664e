"""BERT whose upper layers also attend to an image (ALBEF, Li et al. 2021, section 3.1).

Parameters are named as in transformers and in the official ALBEF checkpoints, so those map by name.

Shapes: B images, T texts, R meetings of a text and an image, L text tokens, P wanted tokens of all meetings,
N image tokens, D text width, C image width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.nn.attention import Attention, ResidualOutput
from workloads.nn.vocabulary import PAD


class Meetings(NamedTuple):
    """Which text meets which image in the fusion layers, as rows of both, [R] each."""

    text_R: Tensor
    image_R: Tensor

    @classmethod
    def one_to_one(cls, rows: int, device: torch.device) -> Meetings:
        """Text i meets image i."""
        own = torch.arange(rows, device=device)
        return cls(own, own)


class Wanted(NamedTuple):
    """Tokens whose final states are wanted: their meeting and their position in its text, [P] each."""

    meeting_P: Tensor
    token_P: Tensor

    @classmethod
    def first(cls, meetings: int, device: torch.device) -> Wanted:
        """The [CLS] token of every meeting."""
        return cls(torch.arange(meetings, device=device), torch.zeros(meetings, dtype=torch.long, device=device))


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised."""

    def __init__(self, vocabulary: int, positions: int, width: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, words_TLD: Tensor) -> Tensor:
        """Return the input of the first layer, [T, L, D], from word embeddings."""
        positions_LD = self.position_embeddings.weight[: words_TLD.shape[1]]
        summed_TLD = words_TLD + positions_LD + self.token_type_embeddings.weight[0]
        return F.dropout(self.LayerNorm(summed_TLD), self.dropout, self.training)


class Intermediate(nn.Module):
    """First half of the feed-forward block: four times as wide, exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 4 * width)

    def forward(self, states_RLD: Tensor) -> Tensor:
        """Return [R, L, 4 D]."""
        return F.gelu(self.dense(states_RLD))


class Layer(nn.Module):
    """Self-attention, for fusion layers attention to image tokens, and a feed-forward block.

    Args:
        width: D.
        heads: attention heads.
        dropout: of attention probabilities and hidden states.
        image_width: C for a fusion layer, None for a text layer.
    """

    def __init__(self, width: int, heads: int, dropout: float, image_width: int | None) -> None:
        super().__init__()
        self.attention = Attention(width, width, heads, dropout)
        if image_width is not None:
            self.crossattention = Attention(width, image_width, heads, dropout)
        self.intermediate = Intermediate(width)
        self.output = ResidualOutput(4 * width, width, dropout)

    def attend_text(self, states_RLD: Tensor, mask_R11L: Tensor) -> Tensor:
        """Return [R, L, D] after self-attention."""
        attended: Tensor = self.attention(states_RLD, self.attention.self.keys_values(states_RLD), mask_R11L)
        return attended

    def attend_image(
        self, states_RLD: Tensor, image_BNC: Tensor, image_R: Tensor, record: list[Tensor] | None
    ) -> Tensor:
        """Return [R, L, D] after attention to the image of each row; keys are computed once per image."""
        context = self.crossattention.self.keys_values(image_BNC).rows(image_R)
        attended: Tensor = self.crossattention(states_RLD, context, None, record)
        return attended

    def feed_forward(self, states_RLD: Tensor) -> Tensor:
        """Return [R, L, D]."""
        transformed: Tensor = self.output(self.intermediate(states_RLD), states_RLD)
        return transformed


class LayerStack(nn.Module):
    """Holds the layers under the name that checkpoints use."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


class Bert(nn.Module):
    """Text layers and, above them, fusion layers.

    Args:
        vocabulary: word pieces.
        positions: longest text.
        width: D; the heads must divide it.
        layers: text layers.
        fusion_layers: layers that also attend to the image.
        heads: attention heads.
        dropout: of attention probabilities and hidden states.
        image_width: C.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        positions: int,
        width: int,
        layers: int,
        fusion_layers: int,
        heads: int,
        dropout: float,
        image_width: int,
    ) -> None:
        super().__init__()
        self.text_layers = layers
        self.embeddings = Embeddings(vocabulary, positions, width, dropout)
        image_widths = [None] * layers + [image_width] * fusion_layers
        self.encoder = LayerStack([Layer(width, heads, dropout, context) for context in image_widths])
        self.apply(_initialise)

    def words(self, input_ids_TL: Tensor) -> Tensor:
        """Return the word embeddings [T, L, D], before position, type and LayerNorm."""
        words: Tensor = self.embeddings.word_embeddings(input_ids_TL)
        return words

    def encode(self, words_TLD: Tensor, mask_TL: Tensor) -> Tensor:
        """Return the states after the text layers, [T, L, D].

        Args:
            words_TLD: word embeddings.
            mask_TL: True at tokens, False at padding.
        """
        states_TLD: Tensor = self.embeddings(words_TLD)
        for layer in self._layers(0, self.text_layers):
            states_TLD = layer.feed_forward(layer.attend_text(states_TLD, mask_TL[:, None, None]))
        return states_TLD

    def fuse(
        self,
        states_TLD: Tensor,
        mask_TL: Tensor,
        image_BNC: Tensor,
        meetings: Meetings,
        wanted: Wanted,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the states of the wanted tokens after the fusion layers, [P, D].

        A text that meets several images attends to itself once in the first layer, and the last layer attends to
        images for the wanted tokens alone; dropout aside, the result is that of all layers on all pairs and tokens.

        Args:
            states_TLD: of the text layers.
            mask_TL: True at tokens, False at padding.
            image_BNC: image tokens.
            meetings: which text meets which image.
            wanted: the tokens whose final states are returned.
            record: when given, receives each layer's attention to the image, part of the graph: [R, heads, L, N], of
                the last layer [P, heads, 1, N].
        """
        layers = self._layers(self.text_layers, None)
        states_RLD, mask_RL, image_R = states_TLD, mask_TL, meetings.image_R
        for layer in layers:
            states_RLD = layer.attend_text(states_RLD, mask_RL[:, None, None])
            if layer is layers[0]:
                states_RLD, mask_RL = states_RLD[meetings.text_R], mask_RL[meetings.text_R]
            if layer is layers[-1]:
                states_RLD, image_R = states_RLD[wanted.meeting_P, wanted.token_P, None], image_R[wanted.meeting_P]
            states_RLD = layer.attend_image(states_RLD, image_BNC, image_R, record)
            states_RLD = layer.feed_forward(states_RLD)
        return states_RLD[:, 0]

    def _layers(self, start: int, stop: int | None) -> list[Layer]:
        return [layer for layer in self.encoder.layer[start:stop] if isinstance(layer, Layer)]


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.normal_(std=0.02)
    if isinstance(module, nn.Linear):
        module.bias.zero_()
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        module.weight[module.padding_idx].zero_()
