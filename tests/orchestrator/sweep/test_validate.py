"""What is refused before a sweep starts, with file, line and fix, and what is only said."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.findings import Finding
from orchestrator.config.errors import RecipeError
from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.sweep.validate import (
    REPORTS_PER_TRIAL,
    check_reports,
    check_sweep,
    first_comparison_step,
    report_steps,
)

RECIPE = """\
workload: albef
data: {train: shards, held_out: held}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
model: {preset: tiny}
evaluation: {every_steps: 10}
checkpoint: {every_steps: 20}
"""
RECALL = "held_out/text_to_image/recall@10"
STEPS = 200


def load(
    folder: Path, *overrides: str, metric: str = RECALL, space: str = "distillation.alpha: [0, 0.4]"
) -> ResolvedSweep:
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "alpha.yaml").write_text(
        f"recipe: mine.yaml\nobjectives:\n  - {{metric: {metric}, mode: max}}\n"
        f"search: {{method: grid}}\nspace:\n  {space}\n"
    )
    return load_sweep(folder / "alpha.yaml", overrides)


def check(sweep: ResolvedSweep) -> list[Finding]:
    return [*check_sweep(sweep), *check_reports(sweep, STEPS)]


def refusal(sweep: ResolvedSweep) -> str:
    with pytest.raises(RecipeError) as caught:
        check(sweep)
    return str(caught.value)


def said(sweep: ResolvedSweep) -> str:
    return "\n".join(f"{one.name}: {one.found} {one.fix}" for one in check(sweep))


@pytest.mark.parametrize("metric", [RECALL, "loss", "loss_itc", "gradient_norm", "held_out/image_to_text/median_rank"])
def test_figures_that_every_trial_has_are_objectives(tmp_path: Path, metric: str) -> None:
    check(load(tmp_path, metric=metric))


@pytest.mark.parametrize(
    ("metric", "hint"),
    [
        ("los", "did you mean 'loss'?"),
        ("held_out/text_to_image/recal@10", f"did you mean '{RECALL}'?"),
        ("text_to_image/recall@10", f"did you mean '{RECALL}'?"),
        ("reranked/text_to_image/recall@10", f"did you mean '{RECALL}'?"),
        ("zzz", "there are loss, loss_itc"),
    ],
)
def test_a_figure_that_no_step_has_is_refused_with_the_closest_name(tmp_path: Path, metric: str, hint: str) -> None:
    found = refusal(load(tmp_path, metric=metric))
    assert "alpha.yaml:3: objectives: no step of the run has the metric" in found
    assert hint in found


def test_a_figure_that_one_configuration_lacks_is_refused_with_the_configuration(tmp_path: Path) -> None:
    sweep = load(tmp_path, metric="loss_mlm", space="masking.enabled: [true, false]")
    assert "(With masking.enabled false.)" in refusal(sweep)


def test_held_out_figures_need_samples_and_a_rhythm(tmp_path: Path) -> None:
    assert "data.held_out (overrides)" in refusal(load(tmp_path, "overrides.data={train: shards}"))
    assert "set evaluation.every_steps" in refusal(load(tmp_path, "overrides.evaluation={every_steps: null}"))


def test_a_figure_of_some_steps_does_for_whole_trials_alone(tmp_path: Path) -> None:
    late = "overrides.adversarial={steps: 2, active: [0.5, 1.0]}"
    check(load(tmp_path, late, metric="loss_adversarial"))
    found = refusal(load(tmp_path, late, "scheduler.kind=asha", metric="loss_adversarial"))
    assert "only steps in a part of the run have loss_adversarial" in found
    check(load(tmp_path, "overrides.adversarial={steps: 2}", "scheduler.kind=asha", metric="loss_adversarial"))


def test_rungs_need_a_report_before_them(tmp_path: Path) -> None:
    check(load(tmp_path, "scheduler={kind: asha, first_rung: 0.05}"))
    found = refusal(load(tmp_path, "scheduler={kind: asha, first_rung: 0.04}"))
    assert "after 8 of 200 steps, but the objectives are measured every 10 steps" in found
    assert "Set evaluation.every_steps to 8 or less (overrides), or scheduler.first_rung to at least 0.05." in found
    check(load(tmp_path, "scheduler={kind: asha, first_rung: 0.04}", metric="loss"))
    assert "less than one" in refusal(load(tmp_path, "scheduler={kind: asha, first_rung: 0.001}", metric="loss"))


@pytest.mark.parametrize("steps", [1, 7, 160, 298_829])
@pytest.mark.parametrize(
    "scheduler", ["{kind: none}", "{kind: asha, first_rung: 0.3}", "{kind: pbt, exchange_every: 0.07}"]
)
def test_figures_of_every_step_are_reported_now_and_then_and_where_trials_compare(
    tmp_path: Path, steps: int, scheduler: str
) -> None:
    sweep = load(tmp_path, f"scheduler={scheduler}", metric="loss")
    every = report_steps(sweep, steps)
    assert every >= 1
    assert steps / every <= 2 * REPORTS_PER_TRIAL
    if sweep.sweep.scheduler.kind != "none":
        first = first_comparison_step(sweep, sweep.recipe({}).recipe, steps)
        assert -(-first // every) * every - first <= steps / 100


def test_what_pbt_takes_over_has_to_be_saved_where_it_is_compared(tmp_path: Path) -> None:
    check(load(tmp_path, "scheduler={kind: pbt, exchange_every: 0.1}"))
    found = refusal(load(tmp_path, "scheduler={kind: pbt, exchange_every: 0.15}"))
    assert f"{tmp_path}/mine.yaml:7: checkpoint.every_steps: pbt exchanges checkpoints every 30 steps" in found
    assert "Set it to 15 or 30 (overrides)." in found
    check(load(tmp_path, "scheduler={kind: pbt, exchange_every: 0.1}", "overrides.checkpoint={every_steps: 20}"))


def test_a_configuration_that_is_no_recipe_is_found_before_it_is_run(tmp_path: Path) -> None:
    space = "matching.enabled: [true, false]\n  masking.enabled: [true, false]\n  contrastive.enabled: [true, false]"
    sweep = load(tmp_path, "overrides.matching={hard_negatives: false}", space=space)
    found = refusal(sweep)
    assert "alpha.yaml:5: space: matching.enabled false, masking.enabled false, contrastive.enabled false" in found
    assert "no objective is left" in found
    ruled_out = 'constraints=["matching.enabled or masking.enabled or contrastive.enabled"]'
    check(load(tmp_path, "overrides.matching={hard_negatives: false}", ruled_out, space=space))


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
def test_an_empty_space_is_refused_with_its_line(tmp_path: Path, method: str) -> None:
    (tmp_path / "one").mkdir()
    search = f"search={{method: {method}, trials: 12}}"
    found = refusal(load(tmp_path / "one", "constraints=[distillation.alpha > 1]", search))
    assert "the space is empty" in found
    assert found.startswith("command line: constraints")


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["search.trials=5"], "search.trials is 5; the grid has 2 configurations"),
        (["search.trials=1"], "only the first are tried"),
        (["search.trials=1"], "a single trial is compared with nothing"),
        (["search={method: tpe, trials: 8}"], "tpe draws its first 10 configurations at random"),
        (
            ["scheduler={kind: asha, first_rung: 0.12}"],
            "first compared after step 30, where they are measured, not after 24",
        ),
        (["scheduler={kind: asha}"], "of 2 trials, asha with reduction 3 stops few"),
        (["space={batch.micro_batches: [2, 4]}"], "trials differ in batch.micro_batches"),
    ],
)
def test_what_may_be_a_slip_is_said(tmp_path: Path, overrides: list[str], note: str) -> None:
    assert note in said(load(tmp_path, *overrides))


def test_a_figure_of_training_is_no_judge_of_how_to_train(tmp_path: Path) -> None:
    assert "Prefer a metric of held-out samples" in said(load(tmp_path, metric="loss"))
    assert not said(load(tmp_path, metric="loss", space="optimizer.weight_decay: [0, 0.1]"))
    assert not said(load(tmp_path))
