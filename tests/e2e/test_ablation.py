"""The ablation's rows, its swapped captions and its results file are what the table claims."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ablation_corpus import swap_captions
from ablation_results import Result, ResultsFile, summary, unfinished
from ablation_rows import NOISE, ROWS, Run, runs

from orchestrator.config.document import flatten
from workloads.contract import Sample

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
