import pytest
import torch
from torch import Tensor

from workloads.nn.attention import TokenLayout
from workloads.nn.bert import Bert, PairIndices, TokenSelection

Batch = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def bert() -> Bert:
    torch.manual_seed(0)
    made = Bert(vocabulary=200, positions=16, width=24, layers=2, fusion_layers=3, heads=2, dropout=0.1, image_width=10)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.double().eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    torch.manual_seed(1)
    ids = torch.randint(104, 200, (3, 6))
    mask = torch.arange(6) < torch.tensor([6, 4, 5])[:, None]
    return ids, mask, torch.randn(2, 7, 10, dtype=torch.float64)


def every_token(bert: Bert, states: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """All fusion layers on one text and one image, for every token."""
    layout = TokenLayout.padded(mask)
    states = layout.pack(states)
    for layer in bert.encoder.layer[2:]:
        states = layer.attend_text(states, layout)
        states = layer.attend_image(states, layout, image, torch.zeros(1, dtype=torch.long))
    return states


def test_fusing_selected_tokens_equals_fusing_every_token_of_every_pair(bert: Bert, batch: Batch) -> None:
    ids, mask, image = batch
    states = bert.encode(bert.words(ids), mask)
    pairs = PairIndices(torch.tensor([0, 2, 0, 1]), torch.tensor([0, 0, 1, 1]))
    tokens = TokenSelection(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([0, 4, 5, 0, 2]))
    fused = bert.fuse(states, mask, image, pairs, tokens)
    for row, (pair, token) in enumerate(zip(*tokens, strict=True)):
        text, picture = pairs.text_R[pair], pairs.image_R[pair]
        expected = every_token(bert, states[text, None], mask[text, None], image[picture, None])[token]
        torch.testing.assert_close(fused[row], expected, rtol=1e-10, atol=1e-12)


def test_recording_attention_changes_nothing(bert: Bert, batch: Batch) -> None:
    ids, mask, image = batch
    states = bert.encode(bert.words(ids[:2]), mask[:2])
    pairs, tokens = PairIndices.one_to_one(2, ids.device), TokenSelection.cls_tokens(2, ids.device)
    record: list[torch.Tensor] = []
    recorded = bert.fuse(states, mask[:2], image, pairs, tokens, record)
    torch.testing.assert_close(recorded, bert.fuse(states, mask[:2], image, pairs, tokens), rtol=1e-10, atol=1e-12)
    assert [tuple(attention.shape) for attention in record] == [(2, 2, 6, 7), (2, 2, 6, 7), (2, 2, 1, 7)]
    torch.testing.assert_close(record[0].sum(-1), torch.ones(2, 2, 6, dtype=torch.float64))


def test_padding_changes_nothing(bert: Bert, batch: Batch) -> None:
    ids, mask, _ = batch
    padded = bert.encode(bert.words(ids), mask)[1, :4]
    alone = bert.encode(bert.words(ids[1:2, :4]), mask[1:2, :4])[0]
    torch.testing.assert_close(padded, alone, rtol=1e-10, atol=1e-12)


def test_an_empty_selection_gives_no_rows(bert: Bert, batch: Batch) -> None:
    ids, mask, image = batch
    none = torch.zeros(0, dtype=torch.long)
    fused = bert.fuse(
        bert.encode(bert.words(ids), mask), mask, image, PairIndices(none, none), TokenSelection(none, none)
    )
    assert fused.shape == (0, 24)
