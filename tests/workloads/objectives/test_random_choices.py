import torch
from torch import Tensor

from workloads.contract import KeyedRandom
from workloads.objectives.contrastive import Similarities
from workloads.objectives.matching import KeyedChoices


def choices(key: int) -> KeyedChoices:
    return KeyedChoices(KeyedRandom((key,)), vocabulary=500, mask_probability=0.5, hard_negatives=True)


def itself(rows: int) -> Tensor:
    return torch.eye(rows, dtype=torch.bool)


def test_equal_keys_draw_equally_whatever_was_drawn_before() -> None:
    ids = torch.arange(104, 404).view(10, 30)
    logits = Similarities(torch.randn(10, 10), torch.randn(10, 10))
    first, second = choices(1), choices(1)
    negatives = first.negatives(logits, itself(10))
    torch.testing.assert_close(first.masked(ids), second.masked(ids))
    torch.testing.assert_close(second.negatives(logits, itself(10)), negatives)


def test_purposes_draw_independently() -> None:
    even = torch.zeros(200, 200)
    drawn = choices(1).negatives(Similarities(even, even), itself(200))
    assert drawn.image_for_text.eq(drawn.text_for_image).float().mean() < 0.1


def test_images_are_drawn_by_the_text_queries() -> None:
    towards_next = torch.full((6, 6), -50.0)
    towards_next[torch.arange(6), (torch.arange(6) + 1) % 6] = 50.0
    drawn = choices(1).negatives(Similarities(image_to_text=towards_next.T, text_to_image=towards_next), itself(6))
    assert drawn.image_for_text.tolist() == [1, 2, 3, 4, 5, 0]
    assert drawn.text_for_image.tolist() == [5, 0, 1, 2, 3, 4]
