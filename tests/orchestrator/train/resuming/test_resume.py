"""New runs and continued ones, decided before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from saving import rewrite_as_version_two, save_checkpoint
from shards import write_shards
from toy_workload import ToyConfig, ToyEntry, ToyOptions

from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import ResolvedRecipe, load_recipe
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunError, RunFile, find_run
from orchestrator.stream.decoder import Node
from orchestrator.stream.image_cache.cache import DecodedCache
from orchestrator.stream.micro_batch import fingerprint
from orchestrator.stream.state import StreamState
from orchestrator.train.checkpoints.manifest import CheckpointError, RunState
from orchestrator.train.driver import log_folder_of
from orchestrator.train.plan import Plan, check_machines, make_plan, recipe_yaml
from orchestrator.train.resume import continued_run, new_run

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {cpus_per_worker: 0.5, workers: 2}
model: {preset: tiny}
"""


def plan_of(tmp_path: Path, *overrides: str, samples: int = 50) -> Plan:
    folder = write_shards(str(tmp_path / "data"), samples)
    path = tmp_path / "run.yaml"
    path.write_text(RECIPE)
    return make_plan(load_recipe(path, [f"data.train={folder}", f"storage.uri={tmp_path / 'runs'}", *overrides]))


def remember(plan: Plan, status: str = "KILLED") -> None:
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    plan.run.write(
        RunFile("run", plan.resolved.digest(), plan.data.digest, "sqlite:///x", "id", plan.steps, "2026-01-01", status)
    )


def save(plan: Plan, step: int, stream: StreamState | None = None) -> None:
    config = plan.resolved.workload.model_dump(mode="json")
    told = stream and stream.plain()
    state = RunState(step, 42, plan.resolved.digest(), plan.data.digest, "id", "albef", config, None, told)
    save_checkpoint(plan.run, state, torch.nn.Linear(1, 1).state_dict(), {})


def test_the_cache_of_decoded_images_is_off_unless_asked_for_and_free_to_change(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.read_plan(0.5).decoder.cache is None
    remember(plan)
    changed = plan_of(tmp_path, "stream.decoded_cache_mb=500")
    assert changed.read_plan(0.5).decoder.cache == DecodedCache(500)
    assert continued_run(changed).previous is not None


def test_a_workload_that_cannot_use_the_cache_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(tmp_path, "stream.decoded_cache_mb=500")
    plan.read_plan(0.5)
    assert caplog.text == ""
    replace(plan, resolved=ResolvedRecipe(plan.recipe, ToyConfig(), ToyEntry(), ToyOptions())).read_plan(0.5)
    assert "stream.decoded_cache_mb: the workload albef does not decode in a separate stage" in caplog.text


def test_the_plan_counts_steps_and_shares(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert (plan.total_samples, plan.steps) == (150, 10)
    described = plan.describe()
    assert described["micro_batches_per_worker"] == "1"
    assert described["training_samples"] == 50
    assert described["run_folder"] == str(tmp_path / "runs" / "run")


def test_a_new_run_needs_a_free_name(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert new_run(plan).first_step == 0
    remember(plan)
    with pytest.raises(RunError, match=r"a run of this name exists.*--resume run"):
        new_run(plan)


def test_a_run_continues_at_its_newest_checkpoint(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan)
    assert continued_run(plan).first_step == 0
    save(plan, 4)
    save(plan, 7)
    start = continued_run(plan)
    assert (start.first_step, start.done) == (7, False)


def test_a_run_continues_past_damage_but_not_at_an_older_version(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan)
    save(plan, 4)
    save(plan, 7)
    (plan.run.checkpoints / "step-00000007" / "manifest.json").write(b"{")
    said: list[str] = []
    assert continued_run(plan, said.append).first_step == 4
    assert "step-00000007/manifest.json: is damaged" in said[0]
    rewrite_as_version_two(plan.run.checkpoints / "step-00000004")
    with pytest.raises(CheckpointError, match=r"step-00000004/manifest\.json: format version 2 is not supported"):
        continued_run(plan)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan, "FINISHED")
    save(plan, plan.steps)
    assert continued_run(plan).done


def test_a_changed_recipe_is_refused_by_name(tmp_path: Path) -> None:
    remember(plan_of(tmp_path))
    with pytest.raises(RunError, match=r"recipe changed.*seed: 42 -> 7"):
        continued_run(plan_of(tmp_path, "seed=7"))


def test_another_number_of_workers_is_no_change(tmp_path: Path) -> None:
    remember(plan_of(tmp_path))
    assert continued_run(plan_of(tmp_path, "scale.workers=1")).previous is not None


def test_changed_data_is_refused(tmp_path: Path) -> None:
    remember(plan_of(tmp_path))
    with pytest.raises(RunError, match=r"training data in .* changed"):
        continued_run(plan_of(tmp_path, samples=51))


def test_a_run_is_found_by_name_or_path(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan)
    storage = str(tmp_path / "runs")
    assert find_run("run", storage).read() == plan.run.read()
    assert find_run(plan.run.root.path, "elsewhere").read() == plan.run.read()
    with pytest.raises(RunError, match="no run 'nope'"):
        find_run("nope", storage)


def test_a_damaged_run_file_is_explained(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan)
    (plan.run.root / "run.json").write(b"{}")
    with pytest.raises(RunError, match="is damaged"):
        plan.run.read()


def test_a_machine_that_is_too_small_is_refused(tmp_path: Path) -> None:
    recipe = plan_of(tmp_path).recipe
    check_machines(recipe, [Node(cpus=2, gpus=0)])
    with pytest.raises(ConfigError, match=r"2 workers x 0\.5 CPUs and 1 for reading need 2 CPUs; there are 1\.5"):
        check_machines(recipe, [Node(cpus=1.5, gpus=0)])
    with pytest.raises(ConfigError, match=r"scale\.cpus_per_worker: .* no machine has a whole CPU left to read"):
        check_machines(recipe, [Node(cpus=1.25, gpus=0), Node(cpus=0.75, gpus=0)])
    greedy = recipe.model_copy(update={"scale": recipe.scale.model_copy(update={"use_gpu": True})})
    with pytest.raises(ConfigError, match=r"scale\.use_gpu: 2 workers need 2 GPUs; there are 1"):
        check_machines(greedy, [Node(cpus=8, gpus=1)])


@pytest.mark.parametrize(
    ("micro_batches", "workers", "block_steps"), [(1, 1, 8), (2, 2, 8), (2, 1, 4), (8, 1, 1), (16, 1, 1), (16, 8, 4)]
)
def test_a_block_holds_a_bounded_number_of_samples(
    tmp_path: Path, micro_batches: int, workers: int, block_steps: int
) -> None:
    shape = (f"batch.micro_batches={micro_batches}", "batch.micro_batch_size=64")
    plan = plan_of(tmp_path, *shape, "scale.workers=1")
    assert plan.partition(0, workers).block_steps == block_steps


def test_a_mixture_is_planned(tmp_path: Path) -> None:
    folders = [write_shards(str(tmp_path / name), count) for name, count in (("a", 30), ("b", 20))]
    path = tmp_path / "run.yaml"
    path.write_text(RECIPE)
    mix = f"data.mix=[{{uri: {folders[0]}, weight: 3}}, {{uri: {folders[1]}, weight: 1}}]"
    plan = make_plan(load_recipe(path, [mix, f"storage.uri={tmp_path / 'runs'}"]))
    assert (plan.data.total, plan.total_samples) == (50, 150)
    assert plan.reader.mixture.quotas == (3072, 1024)
    assert plan.data.uris == ", ".join(folders)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{}", "exactly one of data.train and data.mix"),
        ("{train: x, mix: [{uri: y}]}", "exactly one of data.train and data.mix"),
        ("{mix: [{uri: y, weight: 1}, {uri: z}]}", "give a weight to every data set, or to none"),
        ("{mix: [{uri: y}, {uri: y}]}", "names a data set twice"),
        ("{mix: [{uri: y, weight: -1}]}", "data.mix"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(tmp_path: Path, data: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"{RECIPE}data: {data}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_resume_proves_that_the_stream_goes_on_where_it_stopped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    remember(plan)
    prints = tuple(fingerprint(plan.reader.keys(number)) for number in (6, 7))
    save(plan, 4, StreamState(plan.stream_settings(), prints))
    assert continued_run(plan).first_step == 4
    save(plan, 5, StreamState(plan.stream_settings(), prints))
    with pytest.raises(RunError, match=r"step-00000005: the stream would not continue .* the samples of micro-batch 8"):
        continued_run(plan)
    save(plan, 6, StreamState(plan.stream_settings() | {"stream.chunk": 3}, prints))
    with pytest.raises(RunError, match=r"stream.chunk: 3 -> 16"):
        continued_run(plan)


def test_logs_of_a_run_in_an_object_store_are_in_the_users_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert log_folder_of(locate("s3://bucket/run", "http://127.0.0.1:1"), "mine") == tmp_path / "state/fuseray/mine"
    assert log_folder_of(locate(str(tmp_path)), "mine") == tmp_path / "logs"
