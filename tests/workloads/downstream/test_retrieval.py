from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from workloads.albef.config import TextConfig
from workloads.contract import Sample, WorkloadError
from workloads.downstream.gallery import evenly_spaced, word_maps
from workloads.downstream.retrieval import evaluate_retrieval
from workloads.downstream.retrieval_metrics import contrastive_metrics
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.nn.packed_texts import PackedTexts, pack
from workloads.nn.vision import ImageFeatures
from workloads.transforms.pairs import EvaluationTransform
from workloads.transforms.text import cached_tokenizer

TEXT = TextConfig(tokenizer="minilm", max_tokens=8)
TRANSFORM = EvaluationTransform((8, 8), TEXT)


def options_of(**values: Any) -> RetrievalOptions:
    """Options without examples and re-ranking, unless they are asked for."""
    return RetrievalOptions(**{"rerank": 0, "gallery": 0, "heat_maps": 0} | values)


def changed(options: RetrievalOptions, **values: Any) -> RetrievalOptions:
    return options.model_copy(update=values)


COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "white": (255, 255, 255),
}


class ColourModel(nn.Module):
    """Knows the colour of images and of colour words; its embeddings can be told to say the opposite.

    Args:
        sign: +1 for embeddings that are right, -1 for embeddings that are as wrong as can be.
    """

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign
        self.largest_batch = 0
        self.words = nn.Embedding(30522, 3)
        nn.init.zeros_(self.words.weight)
        for name, rgb in COLOURS.items():
            self.words.weight.data[cached_tokenizer(TEXT).token_to_id(name)] = torch.tensor(rgb) / 127.5 - 1

    @property
    def device(self) -> torch.device:
        return self.words.weight.device

    def encode_images(self, image_B3HW: Tensor) -> ImageFeatures:
        assert image_B3HW.dtype == torch.uint8
        self._count(image_B3HW)
        tokens_BND = (image_B3HW.float() / 127.5 - 1).flatten(2).transpose(1, 2)
        return ImageFeatures(tokens_BND, nn.functional.normalize(tokens_BND.mean(dim=1), dim=-1))

    def pack_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> tuple[PackedTexts, Tensor]:
        self._count(input_ids_BL)
        mask_BL = torch.arange(input_ids_BL.shape[1]) < length_B[:, None]
        states_BLD = self.words(input_ids_BL) * mask_BL[..., None]
        embedding_BE = self.sign * nn.functional.normalize(states_BLD.sum(dim=1), dim=-1)
        return PackedTexts(pack(states_BLD, length_B), length_B), embedding_BE

    def match_grouped(self, texts: PackedTexts, image_ND: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert len(image_ND) == 64
        sum_TD = torch.stack([states_LD.sum(dim=0) for states_LD in texts.states_SD.split(texts.length_T.tolist())])
        error_T = (sum_TD - image_ND.mean(dim=0)).square().sum(dim=1)
        return torch.stack([error_T, -error_T], dim=1)

    def word_attention(self, input_ids_BL: Tensor, length_B: Tensor, image_B3HW: Tensor) -> Tensor:
        maps_BLhw = torch.zeros(*input_ids_BL.shape, 2, 2)
        maps_BLhw[..., 0, 1] = input_ids_BL / 1000
        return maps_BLhw

    def _count(self, batch: Tensor) -> None:
        assert not torch.is_grad_enabled()
        self.largest_batch = max(self.largest_batch, len(batch))


def sample(key: str, colour: str, *captions: str) -> Sample:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), COLOURS[colour]).save(buffer, "PNG")
    return Sample(key, buffer.getvalue(), captions)


def colour_samples() -> list[Sample]:
    return [sample(colour, colour, f"A {colour} card.") for colour in COLOURS]


def test_a_model_that_knows_finds_everything() -> None:
    metrics = evaluate_retrieval(ColourModel(), TRANSFORM, colour_samples(), options_of()).metrics
    assert set(metrics) == {metric.name for metric in contrastive_metrics()}
    for direction in ("text_to_image", "image_to_text"):
        assert [metrics[f"{direction}/recall@{k}"] for k in (1, 5, 10)] == [1, 1, 1]
        assert metrics[f"{direction}/chance@1"] == pytest.approx(1 / 6)
        assert metrics[f"{direction}/chance@5"] == pytest.approx(5 / 6)
        assert metrics[f"{direction}/chance@10"] == 1
        assert metrics[f"{direction}/median_rank"] == metrics[f"{direction}/mean_rank"] == 1
    assert metrics["skipped"] == 0
    assert not [name for name in metrics if name.startswith("reranked/")]


def test_reranking_mends_what_the_embeddings_got_wrong() -> None:
    options = options_of(rerank=6)
    metrics = evaluate_retrieval(ColourModel(sign=-1), TRANSFORM, colour_samples(), options).metrics
    for direction in ("text_to_image", "image_to_text"):
        assert metrics[f"{direction}/recall@1"] == 0
        assert metrics[f"{direction}/median_rank"] >= 5
        assert metrics[f"reranked/{direction}/recall@1"] == 1
        assert metrics[f"reranked/{direction}/median_rank"] == 1


def test_reranking_cannot_reach_beyond_its_candidates() -> None:
    options = options_of(rerank=2)
    metrics = evaluate_retrieval(ColourModel(sign=-1), TRANSFORM, colour_samples(), options).metrics
    assert metrics["reranked/text_to_image/recall@1"] == 0
    assert metrics["reranked/text_to_image/mean_rank"] == metrics["text_to_image/mean_rank"]


def test_reranking_more_than_the_gallery_is_reranking_all_of_it() -> None:
    options = options_of(rerank=6)
    results = [
        evaluate_retrieval(ColourModel(-1), TRANSFORM, colour_samples(), changed(options, rerank=top)).metrics
        for top in (6, 1000)
    ]
    assert results[0] == results[1]


def test_candidates_are_ranked_again_while_training_where_the_recipe_says_so() -> None:
    options = RetrievalOptions(rerank=5, gallery=3, heat_maps=3)
    for again, expected in ((False, 0), (True, 5)):
        shorter = changed(options, rerank_while_training=again).while_training()
        assert (shorter.rerank, shorter.gallery, shorter.heat_maps) == (expected, 0, 0)


def test_the_batch_size_bounds_every_call_and_changes_nothing() -> None:
    small, large = ColourModel(), ColourModel()
    samples = colour_samples()
    options = options_of(rerank=4, gallery=3, heat_maps=3)
    one = evaluate_retrieval(small, TRANSFORM, samples, changed(options, batch_size=2))
    two = evaluate_retrieval(large, TRANSFORM, samples, changed(options, batch_size=64))
    assert one.metrics == two.metrics
    assert one.galleries[0] == two.galleries[0]
    assert small.largest_batch == 2


def test_equal_captions_are_one_text_with_several_images() -> None:
    samples = [
        sample("1", "red", "A red card"),
        sample("2", "red", "a RED card!"),
        sample("3", "blue", "blue", "Blue."),
    ]
    evaluation = evaluate_retrieval(ColourModel(), TRANSFORM, samples, options_of(gallery=9))
    assert [row.text for row in evaluation.galleries[0].rows] == ["a red card", "blue"]
    assert [picture.correct for picture in evaluation.galleries[0].rows[0].pictures] == [True, True, False]
    assert evaluation.metrics["text_to_image/chance@1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert evaluation.metrics["image_to_text/chance@1"] == pytest.approx(1 / 2)


def test_an_image_with_several_captions_counts_its_best() -> None:
    samples = [
        sample("1", "red", "a blue thing", "a red thing"),
        sample("2", "blue", "a green thing", "something blue"),
    ]
    metrics = evaluate_retrieval(ColourModel(), TRANSFORM, samples, options_of()).metrics
    assert metrics["image_to_text/recall@1"] == 0.5
    assert metrics["image_to_text/mean_rank"] == 1.5
    assert metrics["image_to_text/chance@1"] == pytest.approx(1 / 2)


def test_unusable_samples_are_skipped_and_counted_and_rows_keep_their_place() -> None:
    broken = Sample("broken", b"no image", ("a card",))
    silent = replace(sample("silent", "red"), captions=("...",))
    samples = [broken, *colour_samples(), silent]
    evaluation = evaluate_retrieval(ColourModel(), TRANSFORM, samples, options_of(gallery=6, heat_maps=6))
    assert evaluation.metrics["skipped"] == 2
    reasons = {row: fault.reason for row, fault in evaluation.unusable.items()}
    assert reasons == {0: "image is corrupt", len(samples) - 1: "caption is empty"}
    assert evaluation.metrics["text_to_image/recall@1"] == 1
    found, maps = evaluation.galleries
    for index, row in enumerate(found.rows, start=1):
        assert row.pictures[0].index == index
        assert row.text == f"a {samples[index].key} card"
    assert [row.pictures[0].index for row in maps.rows] == [1, 2, 3, 4, 5, 6]


def test_the_gallery_shows_the_best_first() -> None:
    for options in (options_of(gallery=2), options_of(gallery=2, rerank=3)):
        evaluation = evaluate_retrieval(ColourModel(), TRANSFORM, colour_samples(), options)
        assert [row.text for row in evaluation.galleries[0].rows] == ["a red card", "a white card"]
        for row in evaluation.galleries[0].rows:
            scores = [picture.score for picture in row.pictures]
            assert scores == sorted(scores, reverse=True)
            assert len(scores) == (options.rerank or 5)
            assert np.isfinite(scores).all()
            assert [picture.correct for picture in row.pictures] == [True] + [False] * (len(scores) - 1)


def test_heat_maps_are_per_word_and_scaled() -> None:
    options = options_of(heat_maps=2, batch_size=1)
    samples = [sample("1", "red", "unfluffable red"), sample("2", "blue", "blue")]
    (maps,) = evaluate_retrieval(ColourModel(), TRANSFORM, samples, options).galleries
    first, second = (row.pictures for row in maps.rows)
    assert [(picture.index, picture.text) for picture in first] == [(0, ""), (0, "unfluffable"), (0, "red")]
    assert [(picture.index, picture.text) for picture in second] == [(1, ""), (1, "blue")]
    assert first[0].map_HW is None
    assert [picture.map_HW.shape for picture in first[1:]] == [(2, 2), (2, 2)]
    assert [picture.map_HW.max() for picture in first[1:]] == [1, 1]


def test_one_sample_is_found_by_necessity() -> None:
    options = options_of(rerank=4, gallery=4, heat_maps=4)
    evaluation = evaluate_retrieval(ColourModel(), TRANSFORM, colour_samples()[:1], options)
    assert evaluation.metrics["text_to_image/recall@1"] == evaluation.metrics["text_to_image/chance@1"] == 1
    assert [len(gallery.rows) for gallery in evaluation.galleries] == [1, 1]


@pytest.mark.parametrize("samples", [[], [Sample("broken", b"", ("a card",))]])
def test_no_usable_sample_is_an_error(samples: list[Sample]) -> None:
    with pytest.raises(WorkloadError, match="no sample to evaluate"):
        evaluate_retrieval(ColourModel(), TRANSFORM, samples, options_of())


def test_word_pieces_share_a_word_and_special_tokens_have_none() -> None:
    maps = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 1, 2), dtype=np.float32)
    words, merged = word_maps(["[CLS]", "play", "##ing", "dogs", "[SEP]"], maps)
    assert words == ("playing", "dogs")
    assert merged.shape == (2, 1, 2)
    assert (merged == 1).all()


def test_an_empty_map_stays_zero() -> None:
    _, merged = word_maps(["[CLS]", "dog"], np.zeros((2, 3, 3), dtype=np.float32))
    assert (merged == 0).all()


def test_pieces_of_a_word_are_averaged() -> None:
    maps = np.zeros((3, 1, 3), dtype=np.float32)
    maps[1, 0], maps[2, 0] = [4, 0, 0], [0, 2, 0]
    assert word_maps(["[CLS]", "play", "##ing"], maps)[1].tolist() == [[[1.0, 0.5, 0.0]]]


def test_positions_are_spread_from_first_to_last() -> None:
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(3, 10) == [0, 1, 2]
    assert evenly_spaced(5, 1) == [0]
    assert evenly_spaced(5, 0) == []
