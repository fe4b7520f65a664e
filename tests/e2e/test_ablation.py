"""The ablation's rows, its swapped captions and its results file are what the table claims."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
from ablation_corpus import Corpus, swap_captions
from ablation_measures import match_all
from ablation_results import SHOWN, Result, ResultsFile, summary, unfinished
from ablation_rows import NOISE, ROWS, Run, runs
from ablation_tokens import TokenWorkload, precompute
from ablation_training import Batches, Training
from torch import Tensor

from orchestrator.config.document import flatten
from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefInference
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom, Sample
from workloads.nn.vision import TextFeatures
from workloads.transforms.pairs import EvaluationTransform

PAIRS = tuple(Sample(f"style-{number % 3}-{number // 3}", b"", (f"subject {number // 3}",)) for number in range(200))


def values(row: str) -> dict[str, Any]:
    return flatten(Run(row, "clean", 0).recipe.values())


def changed(row: str, other: str) -> set[str]:
    ours, theirs = values(row), values(other)
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_changes_exactly_the_keys_that_it_declares(row: str) -> None:
    perturbed = {"adversarial.perturb"} if row == "+villa-text" else set()  # text is the default
    declared = {override.partition("=")[0] for override in ROWS[row]}
    assert changed(row, "+distilled-mlm") == declared - perturbed


def test_each_of_albefs_rows_adds_one_thing_to_the_row_above() -> None:
    added = [changed(*pair) for pair in pairwise(list(ROWS)[:5])]
    assert added == [
        {"contrastive.enabled"},
        {"matching.hard_negatives"},
        {"distillation.contrastive"},
        {"distillation.masked_language"},
    ]


def test_rows_see_equally_many_samples_and_a_key_tells_runs_apart() -> None:
    table = list(runs(list(ROWS), list(NOISE), range(3), ["length.steps=7"]))
    assert {(run.steps, run.recipe.recipe.batch.samples) for run in table} == {(7, 64)}
    keys = {run.key("data") for run in table}
    assert len(keys) == len(table) == 48
    assert keys.isdisjoint(run.key("other data") for run in table)
    assert keys.isdisjoint(run.key("data") for run in runs(list(ROWS), list(NOISE), range(3), ["length.steps=8"]))


@pytest.mark.parametrize("share", [0.0, 0.4, 0.505])
def test_exactly_a_share_of_the_captions_is_swapped_and_none_is_lost(share: float) -> None:
    swapped = swap_captions(PAIRS, share, seed=1)
    moved = sum(new.captions != old.captions for new, old in zip(swapped, PAIRS, strict=True))
    assert moved == round(share * len(PAIRS))
    assert [sample.key for sample in swapped] == [sample.key for sample in PAIRS]
    assert Counter(sample.captions for sample in swapped) == Counter(sample.captions for sample in PAIRS)


def test_which_captions_are_swapped_depends_on_seed_and_sample_alone() -> None:
    def swapped_keys(pairs: tuple[Sample, ...], seed: int) -> set[str]:
        result = swap_captions(pairs, 0.4, seed)
        return {new.key for new, old in zip(result, pairs, strict=True) if new.captions != old.captions}

    assert swap_captions(PAIRS, 0.4, 1) == swap_captions(PAIRS, 0.4, 1)
    assert swapped_keys(PAIRS, 1) == swapped_keys(PAIRS[::-1], 1)
    assert swapped_keys(PAIRS, 1) != swapped_keys(PAIRS, 2)


def test_captions_that_are_all_equal_cannot_be_swapped() -> None:
    with pytest.raises(ValueError, match="4 samples cannot swap captions"):
        swap_captions([Sample(str(number), b"", ("same",)) for number in range(10)], 0.4, 0)


def test_every_epoch_of_the_batches_holds_every_sample_once() -> None:
    nothing = np.zeros((10, 1))
    batches = Batches(nothing, np.arange(10), nothing, nothing, seed=3, size=4)
    seen = np.concatenate([batches.positions(number) for number in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


TINY = (
    "model.vision.name=test_resnet",
    "model.vision_weights=null",
    "model.text_weights=null",
    "model.text={width: 24, layers: 1, fusion_layers: 1, heads: 2}",
    "model.image_size=64",
    "batch.micro_batch_size=4",
    "length.steps=3",
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    def drawing(number: int) -> Sample:
        pixels = KeyedRandom((number,)).numpy().integers(0, 256, (64, 64, 3), dtype=np.uint8)
        image = cv2.imencode(".png", pixels)[1].tobytes()
        return Sample(f"style-{number}", image, (f"subject {'abcdefghijklmnop'[number]}",))

    samples = [drawing(number) for number in range(16)]
    return Corpus(tuple(samples[:11]), tuple(samples[11:]), "made up")


def samples_batch(samples: Sequence[Sample], config: AlbefConfig) -> dict[str, Tensor]:
    transform = EvaluationTransform(config.model.image_hw, config.text)
    tokens = [transform.tokens(sample.captions[0]) for sample in samples]
    columns = {"image": [transform.image(sample) for sample in samples]}
    columns |= {name: [getattr(item, name) for item in tokens] for name in ("input_ids", "length")}
    return {name: torch.from_numpy(np.stack(column)) for name, column in columns.items()}


def losses(workload: AlbefWorkload, batch: dict[str, Tensor]) -> dict[str, float]:
    clock = Clock(1, steps=10, samples=4, epoch_samples=4, draw=KeyedRandom((3,)))
    workload.begin_step(clock)
    metrics = workload.micro_step(batch, clock, lambda loss, **_: loss.backward()).metrics
    return {name: float(metric) for name, metric in metrics.items()}


def test_tokens_computed_once_train_as_the_locked_encoder_itself_does(corpus: Corpus) -> None:
    config = cast(AlbefConfig, Run("+villa-both", "clean", 0, TINY).recipe.workload)
    plain, given = AlbefWorkload(config), TokenWorkload(config)
    for workload in (plain, given):
        workload.build(torch.device("cpu"), KeyedRandom((1,)))
    batch = samples_batch(corpus.train[:4], config)
    with torch.no_grad():
        tokens_BNC = plain.model.student.eval().image_outputs(batch["image"]).tokens_BNC
    assert losses(given, batch | {"image": tokens_BNC}) == pytest.approx(losses(plain, batch), rel=1e-5)
    compared = 0
    for ours, theirs in zip(given.parameter_groups(), plain.parameter_groups(), strict=True):
        for one, other in zip(ours.parameters, theirs.parameters, strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
            compared += one.grad is not None
    assert compared > 20


def test_a_run_trains_and_measures_what_the_table_shows(corpus: Corpus, tmp_path: Path) -> None:
    run = Run("+distilled-mlm", "swapped-40", 1, TINY)
    config = cast(AlbefConfig, run.recipe.workload)
    tokens = precompute(tmp_path, config, (*corpus.train, *corpus.held_out), corpus.digest)
    assert precompute(tmp_path, config, (), corpus.digest).file == tokens.file
    first, again = (Training(run, corpus.without_images(), tokens).finish() for _ in range(2))
    assert first == again
    assert set(SHOWN.values()) | {"chance_itm", "chance_mlm"} <= first.keys()
    assert first["chance_itm"] == pytest.approx(0.6365, abs=1e-4)
    assert first["text_to_image/chance@1"] == pytest.approx(1 / 5)


def test_the_matching_head_scores_every_pair_as_one_by_one(corpus: Corpus, tmp_path: Path) -> None:
    config = cast(AlbefConfig, Run("+itc", "clean", 0, TINY).recipe.workload)
    workload = AlbefWorkload(config)
    workload.build(torch.device("cpu"), KeyedRandom((1,)))
    batch = samples_batch(corpus.train[:5], config)
    with AlbefInference.eval_mode(workload.model.student, config.model) as inference:
        texts, images = (
            inference.encode_texts(batch["input_ids"], batch["length"]),
            inference.encode_images(batch["image"]),
        )
        match_TI = match_all(inference.student, texts, images)
        for text in range(5):
            one = TextFeatures(
                *(column[[text] * 5] for column in (texts.states_BLD, texts.mask_BL, texts.embedding_BE))
            )
            torch.testing.assert_close(match_TI[text], inference.match_scores(one, images)[:, 1])


def result(run: Run, value: float) -> Result:
    return Result.of(run, run.key("data"), {"loss_itm": value})


def test_a_finished_run_is_not_repeated_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    wanted = {run.key("data"): run for run in runs(["+itc"], ["clean"], range(3), [])}
    first, second, third = wanted.values()
    kept = ResultsFile(path)
    assert unfinished(wanted, kept.results) == [first, second, third]
    kept.add(result(first, 0.5))
    kept.add(result(second, 0.7))
    whole = path.read_text()
    path.write_text(whole[:-20])
    again = ResultsFile(path)
    assert again.results == {first.key("data"): result(first, 0.5)}
    assert unfinished(wanted, again.results) == [second, third]
    again.add(result(second, 0.7))
    assert path.read_text() == whole
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_the_summary_has_mean_and_spread_over_seeds() -> None:
    first, second = runs(["+itc"], ["clean"], range(2), [])
    results = {run.key("data"): result(run, value) for run, value in ((first, 0.5), (second, 0.7))}
    (line,) = summary(results)
    assert (line["row"], line["noise"], line["metric"], line["seeds"]) == ("+itc", "clean", "loss_itm", 2)
    assert line["mean"] == pytest.approx(0.6)
    assert line["spread"] == pytest.approx(0.2 / 2**0.5)
    (alone,) = summary(dict([next(iter(results.items()))]))
    assert alone["spread"] is None
