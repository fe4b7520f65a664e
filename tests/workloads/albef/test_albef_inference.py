from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from workloads.albef.model import AlbefInference
from workloads.albef.workload import AlbefWorkload

Small = Callable[..., AlbefWorkload]


@pytest.fixture
def inference(small: Small) -> Iterator[AlbefInference]:
    workload = small(model={"dropout": 0.3})
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as borrowed:
        yield borrowed


def test_embeddings_are_unit_vectors_without_graph(inference: AlbefInference, micro_batch: dict[str, Tensor]) -> None:
    image = inference.encode_images(micro_batch["image"])
    text = inference.encode_texts(micro_batch["input_ids"], micro_batch["length"])
    for embedding in (image.embedding_BE, text.embedding_BE):
        assert embedding.shape == (4, 8)
        assert not embedding.requires_grad
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert image.tokens_BND.shape == (4, 5, 16)
    assert text.mask_BL.sum(1).tolist() == [9, 6, 3, 7]


def test_match_scores_pair_rows(inference: AlbefInference, micro_batch: dict[str, Tensor]) -> None:
    image = inference.encode_images(micro_batch["image"])
    text = inference.encode_texts(micro_batch["input_ids"], micro_batch["length"])
    scores = inference.match_scores(text, image)
    last = inference.match_scores(
        inference.encode_texts(micro_batch["input_ids"][3:], micro_batch["length"][3:]),
        inference.encode_images(micro_batch["image"][3:]),
    )
    assert scores.shape == (4, 2)
    torch.testing.assert_close(scores[3:], last)


def test_word_attention_is_grad_cam_of_the_middle_layer(
    inference: AlbefInference, micro_batch: dict[str, Tensor]
) -> None:
    maps = inference.word_attention(micro_batch["input_ids"], micro_batch["length"], micro_batch["image"])
    assert maps.shape == (4, 12, 2, 2)
    assert (maps >= 0).all()
    assert not maps.requires_grad
    assert maps[0, 1:9].sum() > 0
    assert maps[2, 3:].eq(0).all()
    assert all(parameter.grad is None for parameter in inference.student.parameters())


def test_word_attention_of_a_single_fusion_layer_is_the_attention_itself(
    small: Small, micro_batch: dict[str, Tensor]
) -> None:
    workload = small(model={"text": {"fusion_layers": 1}})
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as inference:
        maps = inference.word_attention(micro_batch["input_ids"], micro_batch["length"], micro_batch["image"])
    assert maps.shape == (4, 12, 2, 2)
    assert (maps[0, 1:9].sum((-1, -2)) > 0).all()
    assert (maps.sum((-1, -2)) <= 1).all()


def test_the_student_returns_to_training(small: Small) -> None:
    student = small().model.student.train()
    with AlbefInference.eval_mode(student, small().config.model):
        assert not student.training
    assert student.training
