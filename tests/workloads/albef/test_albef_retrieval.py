"""Fine-tuning for retrieval: pairs match by their image, in the micro-batch, in the queue and among negatives."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from micro_steps import backward, run
from pydantic import ValidationError
from torch import Tensor

from workloads.albef.retrieval import ENTRY, RetrievalConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import (
    BatchShape,
    Clock,
    DescribedEntry,
    Sample,
    SamplesEntry,
    WarningsEntry,
    WorkloadEntry,
)
from workloads.objectives.contrastive import Similarities
from workloads.objectives.matching import KeyedChoices, Negatives
from workloads.transforms.pairs import IdentifiedPairTransform

At = Callable[[int], Clock]
Small = Callable[..., AlbefWorkload]

LARGE = 2**62
"""Ids are hashes of 63 bits, which a double would round."""


@pytest.fixture
def identified(micro_batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Four pairs, of which the first and the third are of one image."""
    return with_ids(micro_batch, 1, 2, 1, 3)


def with_ids(batch: dict[str, Tensor], *ids: int) -> dict[str, Tensor]:
    return {**batch, "image_id": LARGE + torch.tensor(ids)}


def test_every_parameter_but_the_word_heads_learns(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At
) -> None:
    workload = small_retrieval()
    result, gradients = run(workload, identified, clock(1))
    names = {name for name, _ in workload.model.student.named_parameters() if ".cls.predictions." not in name}
    assert set(gradients) == names
    assert len(names) == sum(len(group.parameters) for group in workload.parameter_groups())
    assert set(result.metrics) == {"loss", "loss_itc", "loss_itm", "itm_skipped", "alpha", "temperature"}
    torch.testing.assert_close(result.metrics["loss"], result.metrics["loss_itc"] + result.metrics["loss_itm"])


class WatchedChoices(KeyedChoices):
    """Keeps what was drawn."""

    drawn: list[Negatives]

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        self.drawn.append(super().negatives(logits, match_BB))
        return self.drawn[-1]


@pytest.mark.parametrize("hard", [True, False])
def test_a_pair_of_the_same_image_is_never_drawn(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At, hard: bool
) -> None:
    drawn: list[Negatives] = []

    def choices(at: Clock) -> KeyedChoices:
        watched = WatchedChoices(at.draw, 200, 0.0, hard)
        object.__setattr__(watched, "drawn", drawn)
        return watched

    workload = small_retrieval()
    workload.choices = choices
    for step in range(10):
        run(workload, identified, clock(step))
    assert len(drawn) == 10
    image_id_B = identified["image_id"]
    for negatives in drawn:
        for row_B in negatives:
            assert not image_id_B[row_B].eq(image_id_B).any()


@pytest.mark.parametrize("settings", [{}, {"adversarial": {"steps": 2}}, {"matching": {"hard_negatives": False}}])
def test_pairs_of_one_image_alone_skip_matching(
    small_retrieval: Small, micro_batch: dict[str, Tensor], clock: At, settings: dict[str, Any]
) -> None:
    """The official code stops here: "invalid multinomial distribution" (salesforce/ALBEF, issue 93)."""
    result, gradients = run(small_retrieval(**settings), with_ids(micro_batch, 5, 5, 5, 5), clock(1))
    assert (float(result.metrics["itm_skipped"]), float(result.metrics["loss_itm"])) == (1, 0)
    assert float(result.metrics["loss_itc"]) > 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_with_an_image_for_each_pair_it_is_contrastive_pre_training(
    small: Small, small_retrieval: Small, micro_batch: dict[str, Tensor], clock: At
) -> None:
    pretraining = small(masking={"enabled": False})
    finetuning = small_retrieval(contrastive={"temperature_range": (0.001, 0.5)})
    expected, gradients = run(pretraining, micro_batch, clock(1))
    found, same_gradients = run(finetuning, with_ids(micro_batch, 4, 1, 3, 2), clock(1))
    torch.testing.assert_close(found.metrics, expected.metrics, rtol=1e-12, atol=0)
    torch.testing.assert_close(same_gradients, gradients, rtol=1e-9, atol=1e-15)


def test_the_queue_remembers_ids_in_order_and_wraps_around(
    small_retrieval: Small, micro_batch: dict[str, Tensor], clock: At
) -> None:
    workload = small_retrieval(contrastive={"queue_size": 6})
    queue = workload.model.queue
    assert queue.idx_queue.tolist() == [[-100] * 6]
    for step, ids in enumerate([(1, 2, 1, 3), (4, 5, 6, 4)]):
        result, _ = run(workload, with_ids(micro_batch, *ids), clock(step))
        assert result.shared["image_id"].tolist() == [LARGE + number for number in ids]
        workload.end_step(clock(step), result.shared)
    assert queue.idx_queue.tolist() == [[LARGE + number for number in (6, 4, 1, 3, 4, 5)]]
    assert int(queue.queue_ptr) == 2


def test_features_of_the_same_image_in_the_queue_are_right_answers(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At
) -> None:
    workload = small_retrieval(distillation={"alpha": 0.0})

    def loss(queued: int) -> float:
        workload.model.queue.idx_queue[0, 5] = queued
        return float(workload.micro_step(identified, clock(1), backward).metrics["loss_itc"])

    assert loss(LARGE + 7) == loss(-100) != loss(LARGE + 2)


def test_ids_are_part_of_the_checkpoint(small_retrieval: Small, small: Small) -> None:
    assert small_retrieval().model.state_dict()["queue.idx_queue"].dtype == torch.int64
    assert "queue.idx_queue" not in small().model.state_dict()


@pytest.mark.parametrize(
    "settings",
    [{}, {"contrastive": {"enabled": False}, "matching": {"hard_negatives": False}}, {"adversarial": {"steps": 2}}],
)
def test_an_empty_result_looks_like_a_real_one(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At, settings: dict[str, Any]
) -> None:
    workload = small_retrieval(**settings)
    real, empty = run(workload, identified, clock(1))[0], workload.empty_result(clock(1))
    assert list(real.metrics) == list(empty.metrics)
    assert list(real.shared) == list(empty.shared)
    for name, tensor in empty.shared.items():
        assert (tensor.shape[0], tensor.shape[1:], tensor.dtype) == (
            0,
            real.shared[name].shape[1:],
            real.shared[name].dtype,
        )


@pytest.mark.parametrize("perturb", [("text",), ("image",), ("text", "image")])
def test_adversarial_steps_perturb_matching(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At, perturb: tuple[str, ...]
) -> None:
    workload = small_retrieval(adversarial={"steps": 2, "init": "uniform", "perturb": perturb, "step_size": 0.1})
    result, gradients = run(workload, identified, clock(1))
    clean = run(small_retrieval(), identified, clock(1))[1]
    assert float(result.metrics["loss_adversarial"]) > 0
    assert float(result.metrics["adversarial_divergence"]) > 0
    assert set(gradients) == set(clean)
    assert not torch.equal(gradients["itm_head.weight"], clean["itm_head.weight"])
    untouched = "text_proj.weight"  # of the contrastive loss alone, which sees clean pairs
    torch.testing.assert_close(gradients[untouched], clean[untouched])


def test_the_temperature_is_not_clamped_unless_asked(
    small_retrieval: Small, identified: dict[str, Tensor], clock: At
) -> None:
    for bounds, expected in ((None, 0.7), ((0.01, 0.5), 0.5)):
        workload = small_retrieval(contrastive={"temperature_range": bounds})
        with torch.no_grad():
            workload.model.student.temp.fill_(0.7)
        assert float(run(workload, identified, clock(1))[0].metrics["temperature"]) == pytest.approx(expected)


def read(**values: Any) -> RetrievalConfig:
    """Validated as the recipe is: through JSON, strictly."""
    return RetrievalConfig.model_validate_json(json.dumps(values))


def test_nothing_said_means_the_official_fine_tuning() -> None:
    config = read()
    assert (config.model.image_size, config.augment.crop_scale, config.text.max_tokens) == (384, (0.5, 1.0), 30)
    assert (config.contrastive.temperature_range, config.contrastive.queue_size) == (None, 65536)
    assert read(model={"vision": {"depth": 2}}).model.image_size == 384
    assert read(model={"preset": "tiny"}).model.image_size == 64
    assert read(model={"preset": "tiny", "image_size": 32}).model.image_size == 32
    assert RetrievalConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("section", ["masking", "distillation"])
def test_there_is_no_masked_language(section: str) -> None:
    values = {"masking": {"enabled": True}, "distillation": {"masked_language": True}}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        read(**{section: values[section]})


@pytest.mark.parametrize(
    ("key", "fields", "said"),
    [
        ("a", {"image_id": "coco_1"}, ""),
        ("a", {"cocoid": 5}, ""),
        ("a#2", {}, ""),
        ("a", {"tags": ["x"]}, "samples have no image id .* build the shards with ids"),
        ("a", {"image_id": [1]}, "image id is not valid: .* write a whole number or a text"),
    ],
)
def test_samples_without_image_ids_are_told_of(key: str, fields: dict[str, Any], said: str) -> None:
    assert isinstance(ENTRY, SamplesEntry)
    samples = [Sample(key, b"", ("a",), fields), Sample("b", b"", ("b",), fields)]
    found = list(ENTRY.check_samples(read(), samples))
    assert len(found) == bool(said)
    assert all(re.search(said, text) for text in found)


def test_the_entry_follows_the_contract() -> None:
    assert isinstance(ENTRY, WorkloadEntry)
    assert isinstance(ENTRY, DescribedEntry)
    assert not isinstance(ENTRY, WarningsEntry)  # a queue that was filled before needs no long run
    config = read(model={"preset": "tiny"}, text={"tokenizer": "minilm"})
    assert isinstance(ENTRY.transform(config), IdentifiedPairTransform)
    assert not list(ENTRY.check(config, BatchShape(4, 16)))
    names = [metric.name for metric in ENTRY.metrics(config).steps]
    assert names == ["loss", "loss_itc", "loss_itm", "itm_skipped", "alpha", "temperature"]
    _, parameters = ENTRY.describe(config)
    assert ", locked are " in parameters
    assert "in the word head" in parameters


@pytest.mark.parametrize(
    ("values", "size", "key"),
    [
        ({"contrastive": {"enabled": False}, "matching": {"enabled": False}}, 16, "contrastive.enabled"),
        ({"contrastive": {"enabled": False}}, 16, "matching.hard_negatives"),
        ({"adversarial": {"steps": 2}, "matching": {"enabled": False}}, 16, "adversarial.steps"),
        ({"contrastive": {"queue_size": 63}}, 16, "contrastive.queue_size"),
        ({"contrastive": {"queue_size": 0}}, 1, "batch.micro_batch_size"),
        ({"model": {"preset": "tiny", "image_size": 60}}, 16, "model.image_size"),
    ],
)
def test_an_impossible_recipe_names_its_key(values: dict[str, Any], size: int, key: str) -> None:
    config = read(**{"model": {"preset": "tiny"}, **values})
    assert [problem.key for problem in ENTRY.check(config, BatchShape(4, size))] == [key]
