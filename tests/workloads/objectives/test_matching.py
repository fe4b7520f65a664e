import pytest
import torch

from workloads.contract import KeyedRandom
from workloads.objectives.contrastive import same_image
from workloads.objectives.matching import (
    Negatives,
    matching_loss,
    matching_pairs,
    negative_weights,
    sample_negatives,
)

ITSELF = torch.eye(3, dtype=torch.bool)


def test_weights_survive_a_temperature_that_underflows_a_softmax_with_the_match() -> None:
    logits = torch.tensor([[1.0, -0.05, 0.02], [0.02, 1.0, -0.05], [-0.05, 0.02, 1.0]]) / 0.001
    assert float(logits.softmax(1).fill_diagonal_(0).sum()) == 0
    weights = negative_weights(logits, ITSELF, hard=True)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights.diagonal().eq(0).all()


def test_hard_weights_are_the_softmax_over_the_others() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0], [0.0, 9.0, 0.0], [1.0, 1.0, 9.0]])
    weights = negative_weights(logits, ITSELF, hard=True)
    torch.testing.assert_close(weights[0, 1:], torch.tensor([1.0, 2.0]).softmax(0))


def test_even_weights_ignore_similarity() -> None:
    weights = negative_weights(torch.randn(4, 4), torch.eye(4, dtype=torch.bool), hard=False)
    torch.testing.assert_close(weights, (1 - torch.eye(4)) / 3)


@pytest.mark.parametrize("hard", [True, False])
def test_another_pair_of_the_same_image_is_never_a_negative(hard: bool) -> None:
    image_id = torch.randint(3, (50, 12), generator=KeyedRandom((2,)).torch())
    for number, ids in enumerate(image_id):
        match = same_image(ids, ids)
        logits = torch.randn(12, 12, generator=KeyedRandom((number,)).torch()) / 0.01
        weights = negative_weights(logits, match, hard)
        torch.testing.assert_close(weights.sum(1), torch.ones(12))
        assert weights[match].eq(0).all()
        drawn = sample_negatives(weights, KeyedRandom((3, number)).torch())
        assert not ids[drawn].eq(ids).any()


def test_draws_follow_the_weights() -> None:
    weights = torch.tensor([[0.0, 0.9, 0.1]]).repeat(4000, 1)
    drawn = sample_negatives(weights, KeyedRandom((1,)).torch())
    assert not drawn.eq(0).any()
    assert drawn.eq(1).float().mean() == pytest.approx(0.9, abs=0.02)


def test_pairs_are_matches_then_wrong_images_then_wrong_texts() -> None:
    pairs = matching_pairs(Negatives(image_for_text=torch.tensor([1, 0]), text_for_image=torch.tensor([1, 0])))
    assert pairs.text_R.tolist() == [0, 1, 0, 1, 1, 0]
    assert pairs.image_R.tolist() == [0, 1, 1, 0, 0, 1]


def test_loss_wants_the_first_third_to_match() -> None:
    right = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [9.0, -9.0]])
    assert float(matching_loss(right)) == pytest.approx(0, abs=1e-6)
    assert float(matching_loss(-right)) == pytest.approx(18, abs=1e-6)


def test_scores_that_are_no_numbers_leave_something_to_draw_from() -> None:
    logits_BB = torch.tensor([[1.0, torch.nan, torch.inf], [torch.nan] * 3, [-torch.inf, -torch.inf, 0.0]])
    weights_BB = negative_weights(logits_BB, ITSELF, hard=True)
    assert torch.isfinite(weights_BB).all()
    torch.testing.assert_close(weights_BB.sum(1), torch.ones(3))
    assert weights_BB.diagonal().tolist() == [0.0, 0.0, 0.0]
