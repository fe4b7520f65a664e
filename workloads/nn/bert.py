"""BERT whose upper layers are fusion layers, which also attend to an image (ALBEF, Li et al. 2021, section 3.1).

Classes are named after those of transformers, and parameters as in transformers and in the official ALBEF checkpoints,
which therefore load by name.

Shapes: B images, T texts, R pairs of a text and an image, L text tokens, S tokens of all texts or pairs without
padding, P selected tokens of all pairs, M masked tokens, N image tokens, D text width, C image width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from workloads.nn.attention import Attention, ResidualOutput, TokenLayout, dropout
from workloads.nn.vocabulary import PAD


class PairIndices(NamedTuple):
    """Which text is fused with which image, as rows of both, [R] each."""

    text_R: Tensor
    image_R: Tensor

    @classmethod
    def one_to_one(cls, rows: int, device: torch.device) -> PairIndices:
        """Pair text i with image i."""
        row = torch.arange(rows, device=device)
        return cls(row, row)


class TokenSelection(NamedTuple):
    """Tokens whose final states are computed: their pair and their position in its text, [P] each."""

    pair_P: Tensor
    token_P: Tensor

    @classmethod
    def cls_tokens(cls, pairs: int, device: torch.device) -> TokenSelection:
        """Select the [CLS] token of every pair."""
        return cls(torch.arange(pairs, device=device), torch.zeros(pairs, dtype=torch.long, device=device))


class BertEmbeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised."""

    def __init__(self, vocabulary: int, positions: int, width: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = dropout

    def forward(self, words_TLD: Tensor, layout: TokenLayout) -> Tensor:
        """Return the input of the first layer, [S, D], from word embeddings."""
        positions_LD = self.position_embeddings.weight[: words_TLD.shape[1]]
        summed_SD = layout.pack(words_TLD + positions_LD + self.token_type_embeddings.weight[0])
        return dropout(self.LayerNorm(summed_SD), self.dropout, self.training)


class BertIntermediate(nn.Module):
    """First half of the feed-forward block: four times as wide, exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 4 * width)

    def forward(self, states_SD: Tensor) -> Tensor:
        """Return [S, 4 D]."""
        return F.gelu(self.dense(states_SD))


class BertLayer(nn.Module):
    """Self-attention, in fusion layers cross-attention to image tokens, and a feed-forward block.

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
        self.intermediate = BertIntermediate(width)
        self.output = ResidualOutput(4 * width, width, dropout)

    def attend_text(self, states_SD: Tensor, layout: TokenLayout) -> Tensor:
        """Return [S, D] after self-attention."""
        context = self.attention.self.keys_values(states_SD, layout)
        attended: Tensor = self.attention(states_SD, layout, context, layout.keys_RL)
        return attended

    def attend_text_selected(self, states_PD: Tensor, row_P: Tensor, states_SD: Tensor, layout: TokenLayout) -> Tensor:
        """Return [P, D] after the self-attention of selected tokens, each to its own text, a row of the layout."""
        context = self.attention.self.keys_values(states_SD, layout).select(row_P)
        mask_PL = None if layout.keys_RL is None else layout.keys_RL.index_select(0, row_P)
        attended: Tensor = self.attention(states_PD, TokenLayout.dense(len(row_P), 1, row_P.device), context, mask_PL)
        return attended

    def attend_image(
        self,
        states_SD: Tensor,
        layout: TokenLayout,
        image_BNC: Tensor,
        image_R: Tensor,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Return [S, D] after cross-attention to each row's image, whose keys are computed once, and feed-forward."""
        images = TokenLayout.dense(image_BNC.shape[0], image_BNC.shape[1], image_BNC.device)
        context = self.crossattention.self.keys_values(image_BNC.flatten(0, 1), images).select(image_R)
        return self.feed_forward(self.crossattention(states_SD, layout, context, None, record))

    def feed_forward(self, states_SD: Tensor) -> Tensor:
        """Return [S, D]."""
        transformed: Tensor = self.output(self.intermediate(states_SD), states_SD)
        return transformed


class BertEncoder(nn.Module):
    """The layers, under the name that they have in checkpoints."""

    def __init__(self, layers: list[BertLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


class Bert(nn.Module):
    """Text layers and, above them, fusion layers.

    Args:
        vocabulary: number of word pieces, V.
        positions: length of the longest text, in tokens.
        width: D; the heads must divide it.
        layers: text layers.
        fusion_layers: layers that also attend to the image.
        heads: attention heads.
        dropout: of attention probabilities and hidden states.
        image_width: C.

    Attributes:
        packed: whether layers leave out padding, which makes shapes depend on the batch but does not change results.
        gradient_checkpointing: whether the backward pass recomputes activations instead of storing them.
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
        self.packed, self.gradient_checkpointing = True, False
        self.embeddings = BertEmbeddings(vocabulary, positions, width, dropout)
        image_widths = [None] * layers + [image_width] * fusion_layers
        self.encoder = BertEncoder([BertLayer(width, heads, dropout, context) for context in image_widths])
        self.apply(_init_weights)

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
        return self.encode_lower(words_TLD, mask_TL, self.text_layers)

    def encode_lower(self, words_TLD: Tensor, mask_TL: Tensor, layers: int) -> Tensor:
        """Return the states after the first text layers, [T, L, D]; with 0 layers those that the first one gets.

        Args:
            words_TLD: word embeddings.
            mask_TL: True at tokens, False at padding.
            layers: how many of them.
        """
        layout = self._layout(mask_TL)
        return layout.unpack(self._encode(self.embeddings(words_TLD, layout), layout, 0, layers))

    def encode_upper(self, states_TLD: Tensor, mask_TL: Tensor, layers: int) -> Tensor:
        """Return the states after the text layers, [T, L, D], from those after the first of them.

        Args:
            states_TLD: from `encode_lower`.
            mask_TL: True at tokens, False at padding.
            layers: as many as there.
        """
        layout = self._layout(mask_TL)
        return layout.unpack(self._encode(layout.pack(states_TLD), layout, layers, self.text_layers))

    def _encode(self, states_SD: Tensor, layout: TokenLayout, start: int, stop: int) -> Tensor:
        for layer in self._layers(start, stop):
            states_SD = self._run(layer.attend_text, states_SD, layout)
            states_SD = self._run(layer.feed_forward, states_SD)
        return states_SD

    def fuse(
        self,
        states_TLD: Tensor,
        mask_TL: Tensor,
        image_BNC: Tensor,
        pairs: PairIndices,
        tokens: TokenSelection,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the states of the selected tokens after the fusion layers, [P, D].

        The first layer runs self-attention once per text, however many images the text is paired with, and the last
        layer runs for the selected tokens only. Except for dropout, the result equals running every layer on every
        token of every pair.

        Args:
            states_TLD: of the text layers.
            mask_TL: True at tokens, False at padding.
            image_BNC: image tokens.
            pairs: which text is fused with which image.
            tokens: whose final states are returned.
            record: when given, receives each layer's attention to the image, part of the graph: [R, heads, L, N], of
                the last layer [P, heads, 1, N].
        """
        *lower, last = self._layers(self.text_layers, None)
        layout, row_R = self._layout(mask_TL), pairs.text_R
        states_SD = layout.pack(states_TLD)
        for layer in lower:
            states_SD = self._run(layer.attend_text, states_SD, layout)
            if layer is lower[0]:
                layout, token_S = layout.select_rows(row_R)
                states_SD, row_R = states_SD.index_select(0, token_S), torch.arange(len(row_R), device=row_R.device)
            states_SD = self._run(layer.attend_image, states_SD, layout, image_BNC, pairs.image_R, record)
        row_P, image_P = row_R.index_select(0, tokens.pair_P), pairs.image_R.index_select(0, tokens.pair_P)
        states_PD = states_SD.index_select(0, layout.packed_index(row_P, tokens.token_P))
        states_PD = self._run(last.attend_text_selected, states_PD, row_P, states_SD, layout)
        single = TokenLayout.dense(len(row_P), 1, row_P.device)
        return self._run(last.attend_image, states_PD, single, image_BNC, image_P, record)

    def _layout(self, mask_TL: Tensor) -> TokenLayout:
        return TokenLayout.packed(mask_TL) if self.packed else TokenLayout.padded(mask_TL)

    def _run(self, layer: Callable[..., Tensor], *inputs: object) -> Tensor:
        return run_layer(layer, *inputs, gradient_checkpointing=self.gradient_checkpointing)

    def _layers(self, start: int, stop: int | None) -> list[BertLayer]:
        return [layer for layer in self.encoder.layer[start:stop] if isinstance(layer, BertLayer)]


@torch.no_grad()
def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.normal_(std=0.02)
    if isinstance(module, nn.Linear):
        module.bias.zero_()
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        module.weight[module.padding_idx].zero_()


class PredictionTransform(nn.Module):
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


class PredictionHead(nn.Module):
    """Logits over the word pieces; the weight is that of the word embeddings, passed in instead of registered."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = PredictionTransform(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states_MD: Tensor, words_VD: Tensor) -> Tensor:
        """Return logits [M, V]."""
        return F.linear(self.transform(states_MD), words_VD, self.bias)


class MaskedLanguageHead(nn.Module):
    """The prediction head, under the name that it has in checkpoints."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.predictions = PredictionHead(width, vocabulary)


class BertForMaskedLM(nn.Module):
    """BERT (`bert`) and its masked-language head (`cls.predictions`), tied to the word embeddings."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        vocabulary, width = bert.embeddings.word_embeddings.weight.shape
        self.bert = bert
        self.cls = MaskedLanguageHead(width, vocabulary)

    def word_logits(self, states_MD: Tensor, words_VD: Tensor | None = None) -> Tensor:
        """Return logits [M, V] of the hidden states of masked tokens.

        Args:
            states_MD: hidden states.
            words_VD: the word embeddings, where the model has none of its own.
        """
        words_VD = self.bert.embeddings.word_embeddings.weight if words_VD is None else words_VD
        logits: Tensor = self.cls.predictions(states_MD, words_VD)
        return logits


def run_layer(layer: Callable[..., Tensor], *inputs: object, gradient_checkpointing: bool) -> Tensor:
    """Return a layer's output, with gradient checkpointing where it is on.

    Args:
        layer: its random draws are repeated when it is recomputed.
        inputs: of the layer.
        gradient_checkpointing: store the inputs only and recompute the rest in the backward pass (Chen et al. 2016);
            has no effect while gradients are disabled.
    """
    if not (gradient_checkpointing and torch.is_grad_enabled()):
        return layer(*inputs)
    output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
    return output
