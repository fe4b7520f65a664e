import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.contract import KeyedRandom
from workloads.nn.vocabulary import CLS, MASK, PAD
from workloads.objectives.masked_language import IGNORE_INDEX, MaskedText, mask_tokens, masked_language_loss

VOCABULARY = 30522


@pytest.fixture(scope="module")
def ids() -> Tensor:
    ids = torch.randint(1000, VOCABULARY, (500, 20), generator=KeyedRandom((0,)).torch())
    ids[:, 0], ids[:, 15:] = CLS, PAD
    return ids


def masked(ids: Tensor, key: int = 1) -> MaskedText:
    return mask_tokens(ids, VOCABULARY, 0.15, KeyedRandom((key,)).torch())


def test_padding_and_cls_are_never_chosen(ids: Tensor) -> None:
    text = masked(ids)
    special = (ids == PAD) | (ids == CLS)
    assert text.labels[special].eq(IGNORE_INDEX).all()
    assert torch.equal(text.input_ids[special], ids[special])


def test_labels_are_the_original_ids_where_chosen(ids: Tensor) -> None:
    text = masked(ids)
    chosen = text.labels != IGNORE_INDEX
    assert torch.equal(text.labels[chosen], ids[chosen])
    assert torch.equal(text.input_ids[~chosen], ids[~chosen])


def test_shares_of_masked_random_and_kept_tokens(ids: Tensor) -> None:
    text = masked(ids)
    chosen = text.labels != IGNORE_INDEX
    assert chosen.sum() / (500 * 14) == pytest.approx(0.15, abs=0.02)
    assert text.input_ids[chosen].eq(MASK).float().mean() == pytest.approx(0.8, abs=0.05)
    assert (text.input_ids == ids)[chosen].float().mean() == pytest.approx(0.1, abs=0.04)


def test_equal_keys_mask_equally(ids: Tensor) -> None:
    assert torch.equal(masked(ids, 5).input_ids, masked(ids, 5).input_ids)
    assert not torch.equal(masked(ids, 5).input_ids, masked(ids, 6).input_ids)


def test_nothing_masked_costs_nothing_and_still_differentiates() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    loss = masked_language_loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0, 7), 0.4)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_loss_mixes_labels_and_teacher() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 9, dtype=torch.float64), torch.randint(9, (6,))
    teacher = torch.randn(6, 9, dtype=torch.float64).softmax(1)
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(logits, teacher)
    torch.testing.assert_close(masked_language_loss(logits, labels, teacher, 0.3), expected)
    torch.testing.assert_close(masked_language_loss(logits, labels, None, 0.3), F.cross_entropy(logits, labels))
