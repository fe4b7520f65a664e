"""What is predicted from small micro-batches is what a large one takes. Real models, real passes, on the CPU."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from planned import resolved

from orchestrator.config.loading import ResolvedRecipe, load_recipe
from orchestrator.plan.memory import memory_need
from orchestrator.plan.profile_inputs import NotMeasuredError, prepare, synthetic_samples
from orchestrator.plan.profile_model import (
    CPU,
    LiveBytes,
    MemoryLine,
    MicroBatchRun,
    count_flops,
    extrapolate,
    measure_footprint,
    phases,
)
from workloads.contract import KeyedRandom

PLENTY = 8 * 10**9


def demo(*overrides: str) -> ResolvedRecipe:
    return load_recipe(Path("workloads/recipes/emoji-demo.yaml"), ["scale.use_gpu=true", *overrides])


def tiny(*overrides: str) -> ResolvedRecipe:
    """The demo with a plain ViT, nothing locked, and smaller images."""
    return demo("model={preset: tiny, image_size: 64}", *overrides)


def live_peak(recipe: ResolvedRecipe, size: int) -> int:
    """Return the most bytes alive in one micro-batch of the last phase, run as a worker does."""
    workload = recipe.entry.create(recipe.workload)
    model = workload.build(CPU, KeyedRandom((0,)), pretrained=False)
    clock = phases(workload)[-1].clock
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    workload.begin_step(clock)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    batch = {name: torch.from_numpy(array) for name, array in prepare(recipe).batch(size).items()}
    with LiveBytes([*model.parameters(), *model.buffers(), *gradients]) as live:
        workload.micro_step(
            batch, clock, lambda loss, retain_graph=False, final=False: loss.backward(None, retain_graph)
        )
    return live.peak


def test_a_large_micro_batch_takes_what_small_ones_say() -> None:
    recipe = tiny("batch.micro_batch_size=32", "adversarial.steps=0")
    footprint = measure_footprint(recipe, prepare(recipe), PLENTY)
    small, large = footprint.sizes
    assert (small, 4 <= large <= 16) == (2, True)
    assert footprint.activation_bytes(32) == pytest.approx(live_peak(recipe, 32), rel=0.2)


def test_the_demo_model_in_figures() -> None:
    recipe = demo("batch.micro_batch_size=2", "adversarial.steps=0")
    footprint = measure_footprint(recipe, prepare(recipe), PLENTY)
    workload = recipe.entry.create(recipe.workload)
    model = workload.build(CPU, KeyedRandom((0,)), pretrained=False)
    trained = sum(each.numel() for group in workload.parameter_groups() for each in group.parameters)
    assert footprint.trained_bytes == 4 * trained
    assert footprint.trained_bytes + footprint.kept_bytes == 4 * sum(each.numel() for each in model.parameters())
    assert footprint.sizes == (2,)
    assert footprint.cpu_samples_per_s is None  # it is to train on GPUs


@pytest.mark.parametrize("name", ["retrieval-coco", "retrieval-flickr30k", "retrieval-emoji"])
def test_fine_tuning_is_measured(name: str) -> None:
    path = Path(f"workloads/recipes/finetune/{name}.yaml")
    small = ["model={preset: tiny, image_size: 32}", "text.tokenizer=minilm", "contrastive.queue_size=256"]
    recipe = load_recipe(path, [*small, "data.train=shards", "scale.use_gpu=true", "batch.micro_batch_size=4"])
    footprint = measure_footprint(recipe, prepare(recipe), PLENTY)
    assert footprint.sizes == (2, 4)
    assert footprint.flop_per_sample > 0
    ids, features = 256 * 8, 2 * 256 * 128 * 4
    assert footprint.buffer_bytes >= ids + features


def test_locked_layers_are_held_once_and_need_neither_gradients_nor_activations() -> None:
    recipe, locked_recipe = (
        tiny("batch.micro_batch_size=2", "adversarial.steps=0", f"model.lock.vision={lock}", f"model.lock.text={lock}")
        for lock in ("null", "all")
    )
    usual, locked = (measure_footprint(each, prepare(each), PLENTY) for each in (recipe, locked_recipe))
    model: Any = recipe.entry.create(recipe.workload).build(CPU, KeyedRandom((0,)), pretrained=False)
    student = model.student
    bert = student.text_encoder.bert
    layers = [*student.visual_encoder.parameters(), *bert.embeddings.parameters()]
    layers += [each for layer in bert.encoder.layer[: bert.text_layers] for each in layer.parameters()]
    held = 4 * sum(each.numel() for each in layers)
    assert usual.trained_bytes - locked.trained_bytes == held
    assert usual.kept_bytes - locked.kept_bytes == 0  # the teacher's copy before, the student's own now
    assert locked.activation_bytes(2) < 0.8 * usual.activation_bytes(2)
    need = memory_need(locked, recipe.recipe, 1)
    assert (need.gradients, need.optimizer) == (locked.trained_bytes, 2 * locked.trained_bytes)
    assert locked.flop_per_sample < 0.8 * usual.flop_per_sample


def test_a_run_with_adversarial_passes_in_its_second_half_has_two_phases() -> None:
    recipe = tiny("adversarial.steps=2", "adversarial.init=uniform", "adversarial.active=[0.5,1.0]")
    workload = recipe.entry.create(recipe.workload)
    workload.build(CPU, KeyedRandom((0,)), pretrained=False)
    first, second = phases(workload)
    assert first.share == pytest.approx(0.5, abs=0.02)
    assert first.share + second.share == pytest.approx(1)
    assert first.clock.progress < 0.5 <= second.clock.progress


def test_adversarial_passes_cost_arithmetic() -> None:
    size = "batch.micro_batch_size=2"
    plain, adversarial = (
        measure_footprint(recipe, prepare(recipe), PLENTY).flop_per_sample
        for recipe in (
            tiny(size, "adversarial.steps=0"),
            tiny(size, "adversarial.steps=2", "adversarial.init=uniform", "adversarial.active=[0.0,1.0]"),
        )
    )
    assert 1.2 * plain < adversarial < 4 * plain


def test_recomputing_activations_saves_memory() -> None:
    deep = ("batch.micro_batch_size=64", "model.vision.depth=12", "adversarial.steps=0", "masking.enabled=false")
    kept, recomputed = (
        measure_footprint(recipe, prepare(recipe), PLENTY).activation_bytes(64)
        for recipe in (tiny(*deep), tiny(*deep, "compute.gradient_checkpointing=true"))
    )
    assert recomputed < 0.8 * kept


def test_a_workload_of_someone_else_on_cpus() -> None:
    recipe = resolved(scale={"workers": 2}, precision="float32")
    footprint = measure_footprint(recipe, prepare(recipe), PLENTY)
    assert footprint.trained_bytes == 4 * (8 * 16 + 8 + 8 * 2 + 8)
    assert footprint.kept_bytes == 0
    assert footprint.buffer_bytes == 4 * 32 * 8
    assert footprint.cpu_samples_per_s is not None
    assert footprint.cpu_samples_per_s > 0
    products = 2 * (16 * 8 + 2 * 8) + 2 * 8 * (16 + 32)  # two towers, and 16 + 32 keys, per sample, forwards
    assert footprint.flop_per_sample == pytest.approx(3 * products, rel=0.25)


def test_too_little_memory_is_said_before_it_is_used_up() -> None:
    recipe = tiny()
    prepared = prepare(recipe)
    with pytest.raises(NotMeasuredError, match=r"this machine has 0\.1 GB to spare"):
        measure_footprint(recipe, prepared, 10**8)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = tiny()
    text = recipe.workload.text.model_copy(update={"tokenizer": str(tmp_path / "none.json")})  # type: ignore[attr-defined]
    broken = replace(recipe, workload=recipe.workload.model_copy(update={"text": text}))
    with pytest.raises(NotMeasuredError, match=r"none\.json"):
        prepare(broken)


def test_a_model_is_measured_without_its_tokenizer_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*address: object, **options: object) -> NoReturn:
        raise AssertionError(f"asked for {address}")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    recipe = tiny("text.tokenizer=bert-base-uncased", "batch.micro_batch_size=4", "scale.use_gpu=false")
    footprint = measure_footprint(recipe, prepare(recipe), PLENTY)
    assert footprint.cpu_samples_per_s is not None
    local = tiny("batch.micro_batch_size=4", "scale.use_gpu=false")
    expected = measure_footprint(local, prepare(local), PLENTY)
    assert footprint.trained_bytes == expected.trained_bytes
    assert footprint.flop_per_sample == pytest.approx(expected.flop_per_sample, rel=0.05)


def test_live_bytes_count_storages_once_and_let_them_go() -> None:
    known = torch.zeros(1000)
    with LiveBytes([known]) as live:
        first = known + 1
        view = first.view(10, 100)
        second = torch.ones(500)
        del first, view
        known.mul_(2)
    assert live.peak == 4 * 1500
    assert live.timeline[-1] == 4 * 500
    assert len(second) == 500


def test_live_bytes_see_what_a_backward_pass_holds() -> None:
    states = torch.ones(100, 100, requires_grad=True)
    states.grad = torch.zeros_like(states)
    with LiveBytes([states, states.grad]) as live:
        states.exp().exp().sum().backward()
    assert 3 * 40_000 <= live.peak <= 4 * 40_000 + 100  # both results are saved; a gradient or two come beside them


def test_flops_of_the_cpus_own_kernels_count() -> None:
    query = torch.ones(2, 3, 5, 8)
    attention = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query))
    assert attention == 2 * 2 * (2 * 3) * 5 * 5 * 8


@pytest.mark.parametrize(
    ("runs", "size", "expected"),
    [
        ([MicroBatchRun(4, [3, 8, 2])], 4, MemoryLine(0, 2)),
        ([MicroBatchRun(2, [30, 20]), MicroBatchRun(4, [30, 40])], 2, MemoryLine(30, 0)),
        (
            [MicroBatchRun(2, [30, 20]), MicroBatchRun(4, [30, 40])],
            8,
            MemoryLine(0, 10),
        ),  # another peak
        (
            [MicroBatchRun(2, [30]), MicroBatchRun(4, [30, 50])],
            8,
            MemoryLine(10, 10),
        ),  # other operations: peaks
    ],
)
def test_extrapolation(runs: list[MicroBatchRun], size: int, expected: MemoryLine) -> None:
    assert extrapolate(runs, size) == expected


def test_synthetic_samples_are_like_photographs() -> None:
    sizes = [len(sample.image) for sample in synthetic_samples(4)]
    assert len(set(sizes)) == 4
    assert all(30_000 < size < 120_000 for size in sizes)
