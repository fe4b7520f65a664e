"""What a run starts from is looked at before anything is started, and logged once."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from official_albef import HEADS, nested
from safetensors.torch import save_file
from saving import save_checkpoint
from shards import write_shards
from small_recipes import IMPORTED, TRAINED
from tracking import Pauses

from orchestrator.cli.main import cli
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_recipe
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.track.tracker import Tracker
from orchestrator.train.checkpoints.manifest import CheckpointError, RunState
from orchestrator.train.control_channel import Channel, StepRecord
from orchestrator.train.plan import Plan, make_plan, recipe_yaml
from orchestrator.train.resume import InitialState, continued_run, find_initial_state, new_run
from orchestrator.train.run_logger import RunLogger
from orchestrator.train.worker import weights_of
from workloads.contract import KeyedRandom, WorkloadError
from workloads.interop.albef_format import FORMAT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and recipes; weights that are none, and a vocabulary that is another."""
    folder = tmp_path_factory.mktemp("user")
    write_shards(str(folder / "data"), 50)
    (folder / "small.yaml").write_text(f"{TRAINED}length: {{epochs: 1}}\n")
    (folder / "imported.yaml").write_text(IMPORTED)
    (folder / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    return folder


def arguments(folder: Path, storage: Path, *overrides: str, recipe: str = "small") -> list[str]:
    places = [f"data.train={folder / 'data' / 'train'}", f"storage.uri={storage}"]
    return [str(folder / f"{recipe}.yaml"), *places, *(override.format(folder) for override in overrides)]


def plan_of(folder: Path, storage: Path, *overrides: str, recipe: str = "small") -> Plan:
    path, *values = arguments(folder, storage, *overrides, recipe=recipe)
    return make_plan(load_recipe(Path(path), values))


def dry_run(arguments: list[str]) -> Result:
    return CliRunner().invoke(cli, ["train", *arguments, "--dry-run"], standalone_mode=False)


REFUSED = [
    (["model.vision_weights={0}/lfs.safetensors"], "model.vision_weights: .*lfs.safetensors .* `git lfs pull`"),
    (["model.vision_weights={0}/absent.safetensors"], "model.vision_weights: there is no file or folder .*absent"),
    (["model.vision_weights=vit_tiny_patch16_224"], "model.vision_weights: .*set model.vision.width=192"),
    (["model.text_weights=minilm"], "model.text_weights: minilm holds .*set model.text.width=384"),
    (["text.tokenizer={0}/absent"], "text.tokenizer: there is no file or folder .*absent; correct the path"),
]


@pytest.mark.parametrize(("overrides", "reason"), REFUSED)
def test_the_dry_run_and_the_start_refuse_what_the_workers_could_not_use(
    folder: Path, tmp_path: Path, overrides: list[str], reason: str
) -> None:
    result = dry_run(arguments(folder, tmp_path, *overrides))
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=f"^{reason}"):
        raise result.exception
    with pytest.raises(ConfigError, match=f"^{reason}"):
        new_run(plan_of(folder, tmp_path, *overrides))


def test_the_dry_run_warns_of_a_queue_that_the_run_is_too_short_for(folder: Path, tmp_path: Path) -> None:
    warning = "warning: contrastive.queue_size: 64 features want a run of"
    assert warning in dry_run(arguments(folder, tmp_path, "contrastive.queue_size=64")).output
    assert "warning" not in dry_run(arguments(folder, tmp_path, "contrastive.queue_size=0")).output


NAMED = [f"model.vision.{key}=null" for key in ("patch", "width", "depth", "heads")] + ["model.vision.name=test_vit"]


def test_the_dry_run_says_what_the_model_is(folder: Path, tmp_path: Path) -> None:
    overrides = [*NAMED, "model.vision_weights=null", "model.lock.vision=all"]
    output = dry_run(arguments(folder, tmp_path, *overrides)).output
    image, parameters = [line for line in output.splitlines() if line.startswith("model: ")]
    assert image.startswith("model: test_vit makes of 32 x 32 pixels a grid of 2 x 2 tokens of width 64 after 1 of the")
    assert " parameters are trained, locked are " in parameters
    values = json.loads(dry_run([*arguments(folder, tmp_path, *overrides), "--json"]).output)
    assert [f"model: {line}" for line in values["model"]] == [image, parameters]


def test_the_dry_run_refuses_weights_of_another_encoder_than_the_named(folder: Path, tmp_path: Path) -> None:
    result = dry_run(arguments(folder, tmp_path, *NAMED, "model.vision_weights=test_vit2"))
    assert isinstance(result.exception, ConfigError)
    assert "where the recipe has test_vit; set model.vision.name=test_vit2" in str(result.exception)


def test_a_run_with_a_checkpoint_needs_its_first_weights_no_longer(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, "model.vision_weights={0}/lfs.safetensors")
    digest, index = plan.resolved.digest(), plan.data.digest
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    plan.run.write(RunFile("small", digest, index, "sqlite:///x", "id", plan.steps, "2026-01-01", "KILLED"))
    with pytest.raises(ConfigError, match="git lfs pull"):
        continued_run(plan)
    save_checkpoint(plan.run, RunState(2, 42, digest, index, "id", "albef", {}, 1.0), {"weight": torch.ones(1)}, {})
    assert continued_run(plan).first_step == 2


def checkpoint_of_a_run(folder: Path, wrong: str = "") -> str:
    """Return the folder of a checkpoint at step 3, of which a tensor is not finite."""
    torch.save(nested("pretrain"), folder / "official.pth")
    checkpoint = FORMAT.read(folder / "official.pth", HEADS)
    tensors = {**checkpoint.state, **checkpoint.optimizer_state}
    if wrong:
        tensors[wrong].view(-1)[1] = torch.nan
    state = RunState(3, 42, "", "", "id", "albef", checkpoint.config.model_dump(mode="json"), 1.0)
    run = RunFolder(locate(str(folder / "earlier")))
    return save_checkpoint(run, state, checkpoint.state, checkpoint.optimizer_state).path


TENSOR, MOMENT = "student.itm_head.weight", "exp_avg/student.itm_head.weight"


def test_a_checkpoint_that_is_not_finite_is_refused_by_driver_and_workers(folder: Path, tmp_path: Path) -> None:
    place = checkpoint_of_a_run(tmp_path, TENSOR)
    overrides = [f"start.checkpoint={place}"]
    reason = rf"start.checkpoint: {place}: {TENSOR} holds not-a-number or infinite values; choose an earlier"
    with pytest.raises(ConfigError, match=reason):
        new_run(plan_of(folder, tmp_path, *overrides, recipe="imported"))
    result = dry_run(arguments(folder, tmp_path, *overrides, recipe="imported"))
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(CheckpointError, match=reason):
        find_initial_state(plan_of(folder, tmp_path, *overrides, recipe="imported"), lambda _: None)


def test_an_optimiser_that_is_not_finite_counts_only_when_it_is_taken(folder: Path, tmp_path: Path) -> None:
    place = checkpoint_of_a_run(tmp_path, MOMENT)
    weights = plan_of(folder, tmp_path, f"start.checkpoint={place}", recipe="imported")
    assert new_run(weights).first_step == 0
    everything = [f"start.checkpoint={place}", "start.take=everything"]
    with pytest.raises(ConfigError, match=rf"optimiser state: {MOMENT} holds .*write start.take: weights"):
        new_run(plan_of(folder, tmp_path, *everything, recipe="imported"))


def test_an_import_that_is_not_finite_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    content = nested("pretrain")
    content["model"]["itm_head.weight"][0, 0] = torch.inf
    torch.save(content, tmp_path / "official.pth")
    overrides = ["model.vision.heads=2", "model.text.heads=2", "contrastive.queue_size=12"]
    verb = ["import-checkpoint", "albef", str(tmp_path / "official.pth"), str(tmp_path / "out"), *overrides]
    result = CliRunner().invoke(cli, verb, standalone_mode=False)
    assert isinstance(result.exception, CheckpointError)
    assert f"official.pth: {TENSOR} holds not-a-number or infinite values" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["official.pth"]


class Screen:
    """Keeps what the user is shown."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, text: str) -> None:
        self.messages.append(text)

    def step(self, record: StepRecord, skipped: int) -> None:
        raise AssertionError


def test_every_run_logs_once_what_both_encoders_start_from(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path)
    untrained = plan.resolved.entry.create(plan.resolved.workload)
    student = untrained.build(torch.device("cpu"), KeyedRandom((1,))).student  # type: ignore[attr-defined]
    weights = {**student.visual_encoder.state_dict(), "head.bias": torch.ones(3)}
    save_file(weights, tmp_path / "vit.safetensors")
    plan = plan_of(folder, tmp_path, f"model.vision_weights={tmp_path}/vit.safetensors")
    workload = plan.resolved.entry.create(plan.resolved.workload)
    workload.build(torch.device("cpu"), KeyedRandom((1,)))
    channel, screen = Channel(), Screen()
    for _ in range(2):  # the first workers die before their first checkpoint
        channel.report_weights(weights_of(workload, InitialState(0)))
    uri = new_database(tmp_path / "mlflow.db")
    tracker = Tracker.start(uri, "e", "small", {}, screen.log, outboxes=Pauses().outboxes())
    file = RunFile("small", "d", "i", uri, tracker.run_id, plan.steps, "2026-01-01T00:00:00+00:00", "RUNNING")
    logger = RunLogger(plan, file, tracker, screen, 0)
    logger.log_messages(channel.take_messages())
    vision, text = screen.messages
    assert vision == (
        f"model.vision_weights: {tmp_path}/vit.safetensors: {len(weights) - 1} tensors used, "
        "0 parameters start at random, 1 tensors left over (head.bias)"
    )
    assert text.startswith("model.text_weights: null; all ")
    logger.close("KILLED")
    tags = MlflowClient(uri).get_run(tracker.run_id).data.tags
    assert (tags["weights/model.vision_weights"], tags["weights/model.text_weights"]) == (vision, text)
    stored = json.loads(plan.run.weights.read())
    assert stored[0]["used"] == list(student.visual_encoder.state_dict())
    assert stored[0]["left_over"] == ["head.bias"]


def test_a_run_from_a_checkpoint_tells_it(folder: Path, tmp_path: Path) -> None:
    place = checkpoint_of_a_run(tmp_path)
    plan = plan_of(folder, tmp_path, f"start.checkpoint={place}", recipe="imported")
    initial = find_initial_state(plan, lambda _: None)
    (part,) = weights_of(plan.resolved.entry.create(plan.resolved.workload), initial)
    assert (part.key, part.source, TENSOR in part.used) == ("start.checkpoint", f"{place} (weights)", True)


def test_weights_of_workers_name_the_key_as_the_dry_run_does(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, "model.vision_weights={0}/lfs.safetensors")
    with pytest.raises(WorkloadError, match=r"^model.vision_weights: .*`git lfs pull`"):
        plan.resolved.entry.create(plan.resolved.workload).build(torch.device("cpu"), KeyedRandom((1,)))
