import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.objectives.contrastive import Keys, contrastive_loss, contrastive_targets, similarities


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


@pytest.fixture
def features() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: unit(3, 4) for name in ("image", "text", "taught_image", "taught_text")} | {
        name: unit(5, 4).T for name in ("image_queue", "text_queue")
    }


def by_hand(query: Tensor, taught_query: Tensor, own: Tensor, queue: Tensor, temperature: float, alpha: float) -> float:
    """One direction of equations 1 and 6, row by row."""
    keys = [*own, *queue.T]
    total = 0.0
    for row in range(len(query)):
        scores = [float(query[row] @ key) / temperature for key in keys]
        taught = [float(taught_query[row] @ key) / temperature for key in keys]
        log_sum = math.log(sum(math.exp(score) for score in scores))
        taught_sum = sum(math.exp(score) for score in taught)
        for column, score in enumerate(scores):
            target = alpha * math.exp(taught[column]) / taught_sum + (1 - alpha) * (column == row)
            total -= target * (score - log_sum) / len(query)
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_loss_is_the_mean_of_both_directions(features: dict[str, Tensor], alpha: float) -> None:
    temperature = torch.tensor(0.2, dtype=torch.float64)
    image_keys = Keys(features["taught_image"], features["image_queue"])
    text_keys = Keys(features["taught_text"], features["text_queue"])
    student = similarities(features["image"], features["text"], image_keys, text_keys, temperature)
    teacher = similarities(features["taught_image"], features["taught_text"], image_keys, text_keys, temperature)
    loss = contrastive_loss(student, contrastive_targets(teacher, alpha))
    expected = (
        by_hand(features["image"], features["taught_image"], *text_keys, 0.2, alpha)
        + by_hand(features["text"], features["taught_text"], *image_keys, 0.2, alpha)
    ) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_targets_have_no_gradient(features: dict[str, Tensor]) -> None:
    leaf = features["taught_image"].clone().requires_grad_()
    keys = Keys(features["taught_image"], features["image_queue"])
    taught = similarities(leaf, features["taught_text"], keys, keys, torch.tensor(0.1, dtype=torch.float64))
    assert not contrastive_targets(taught, 0.4).image_to_text.requires_grad


def test_similarities_stay_float32_under_autocast(features: dict[str, Tensor]) -> None:
    image, text = features["image"].float(), features["text"].float()
    keys = Keys(features["taught_image"].float(), features["image_queue"].float())
    exact = similarities(image, text, keys, keys, torch.tensor(0.07))
    with torch.autocast("cpu", torch.bfloat16):
        autocast = similarities(image, text, keys, keys, torch.tensor(0.07))
    torch.testing.assert_close(autocast, exact, rtol=0, atol=0)
