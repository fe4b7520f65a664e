"""One image encoder of timm from each family, with random weights, small images that are not square, and one block.

All of them have a grid of 2 x 3 patches here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workloads.albef.config import AlbefConfig, deep_merge
from workloads.albef.entry import ENTRY
from workloads.albef.model import AlbefInference, AlbefModel
from workloads.albef.step import MicroStep
from workloads.albef.workload import AlbefWorkload
from workloads.contract import BatchShape, Clock, KeyedRandom, MicroResult
from workloads.interop.export import load_exported
from workloads.nn.timm_encoder import embed_patches, encode_patches, set_gradient_checkpointing

At = Callable[[int], Clock]
Batch = dict[str, Tensor]
Gradients = dict[str, Tensor]

ENCODERS = {
    "vit": ("test_vit", (32, 48)),
    "vit of SigLIP: attention pool, no class token": ("test_vit3", (32, 48)),
    "vit of DINOv2: registers, layer scale": ("vit_small_patch14_reg4_dinov2", (28, 42)),
    "vit of DINOv3: rotary positions": ("vit_small_patch16_dinov3", (32, 48)),
    "vit of CLIP: norm before the blocks": ("vit_xsmall_patch16_clip_224", (32, 48)),
    "swin": ("swin_tiny_patch4_window7_224", (64, 96)),
    "convnext": ("test_convnext", (64, 96)),
    "efficientnet": ("test_efficientnet", (64, 96)),
    "resnet": ("test_resnet", (64, 96)),
}
PREFIX = {"test_vit": 1, "test_vit3": 1, "vit_small_patch14_reg4_dinov2": 5, "vit_small_patch16_dinov3": 5}
PREFIX["vit_xsmall_patch16_clip_224"] = 1
GRID = (2, 3)


def config_of(family: str) -> AlbefConfig:
    name, size = ENCODERS[family]
    model = {
        "image_size": size,
        "vision": {"name": name},
        "text": {"width": 24, "layers": 1, "fusion_layers": 2, "heads": 2, "vocabulary": 200, "positions": 16},
        "embed_dim": 8,
        "dropout": 0.0,
        "vision_weights": None,
        "text_weights": None,
    }
    return AlbefConfig.model_validate(
        {
            "model": model,
            "text": {"tokenizer": "minilm"},
            "contrastive": {"queue_size": 12},
            "distillation": {"ramp_epochs": 0.0},
        }
    )


@pytest.fixture(scope="module", params=ENCODERS)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def built(family: str) -> AlbefWorkload:
    """A model of the family, the same one for all tests, which do not train it."""
    workload = AlbefWorkload(config_of(family))
    workload.build(torch.device("cpu"), KeyedRandom((7,)))
    return workload


@pytest.fixture
def workload(built: AlbefWorkload, clock: At) -> AlbefWorkload:
    built.begin_step(clock(1))
    return built


@pytest.fixture
def batch(family: str, micro_batch: Batch) -> Batch:
    generator = KeyedRandom((2,)).torch()
    image = torch.randint(256, (4, 3, *ENCODERS[family][1]), generator=generator, dtype=torch.uint8)
    return {**micro_batch, "image": image}


def run(workload: AlbefWorkload, batch: Batch, clock: Clock, **adversarial: Any) -> tuple[MicroResult, Gradients]:
    """Return the result of a micro-batch and the student's gradients."""
    options = workload.config.adversarial.model_copy(update=adversarial)
    config = workload.config.model_copy(update={"adversarial": options})
    student = workload.model.student
    student.zero_grad()
    torch.manual_seed(5)  # some families leave out blocks at random
    step = MicroStep(workload.model, config, clock, workload.choices(clock))
    result = step.run(batch, lambda loss, retain_graph=False, final=False: loss.backward(retain_graph=retain_graph))
    return result, {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def embeddings(inference: AlbefInference, batch: Batch) -> tuple[Tensor, ...]:
    image = inference.encode_images(batch["image"])
    text = inference.encode_texts(batch["input_ids"], batch["length"])
    return image.tokens_BND, image.embedding_BE, inference.match_scores(text, image)


def test_a_step_trains_the_whole_encoder_with_a_teacher(workload: AlbefWorkload, batch: Batch, clock: At) -> None:
    result, gradients = run(workload, batch, clock(1))
    assert all(torch.isfinite(value) for value in result.metrics.values())
    assert set(gradients) == {name for name, _ in workload.model.student.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    reached = {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
    assert {"vision_norm.weight", "vision_norm.bias", "vision_proj.weight"} <= reached
    first = next(name for name, _ in workload.model.student.named_parameters() if "visual_encoder" in name)
    assert first in reached
    assert result.shared["image_features"].shape == (4, 8)
    assert not any(parameter.requires_grad for parameter in workload.model.teacher.parameters())


def test_tokens_are_those_of_the_prefix_and_the_grid(family: str, workload: AlbefWorkload, batch: Batch) -> None:
    shape, student = workload.model.student.image_shape, workload.model.student
    assert (shape.grid, shape.prefix_tokens) == (GRID, PREFIX.get(ENCODERS[family][0], 0))
    with torch.no_grad():
        images = student.image_outputs(batch["image"])
    assert images.tokens_BNC.shape == (4, shape.prefix_tokens + 6, shape.width)
    assert images.pooled_BP.shape == (4, shape.pooled_width)


def test_perturbed_patches_take_the_way_of_the_others(workload: AlbefWorkload, batch: Batch) -> None:
    student = workload.model.student.eval()
    pixels = student.pixels(batch["image"])
    with torch.no_grad():
        patches = embed_patches(student.visual_encoder, pixels)
        again = encode_patches(student.visual_encoder, patches, pixels)
        moved = encode_patches(student.visual_encoder, patches + 0.5, pixels)
        expected = student.image_outputs(batch["image"])
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert not torch.allclose(moved.tokens_BNC, expected.tokens_BNC)


def test_adversarial_steps_on_tokens_and_on_patches(workload: AlbefWorkload, batch: Batch, clock: At) -> None:
    options = {"steps": 2, "perturb": ("image",), "init": "uniform", "step_size": 0.5}
    (on_tokens, gradients), (on_patches, others) = (
        run(workload, batch, clock(1), **options, image_at=where) for where in ("tokens", "patches")
    )
    losses = [float(result.metrics["loss_adversarial"]) for result in (on_tokens, on_patches)]
    assert all(torch.tensor(losses).isfinite())
    assert losses[0] != losses[1]
    assert all(torch.isfinite(gradient).all() for gradient in (*gradients.values(), *others.values()))


def test_heat_maps_have_the_encoders_grid(family: str, workload: AlbefWorkload, batch: Batch) -> None:
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as inference:
        maps = inference.word_attention(batch["input_ids"], batch["length"], batch["image"])
    assert maps.shape == (4, 12, *GRID)
    assert (maps >= 0).all()
    assert maps[0, :9].sum() > 0


def test_recomputed_activations_give_the_same_gradients(workload: AlbefWorkload, batch: Batch, clock: At) -> None:
    encoder = workload.model.student.visual_encoder
    usual, expected = run(workload, batch, clock(1))
    set_gradient_checkpointing(encoder, True)
    recomputed, gradients = run(workload, batch, clock(1))
    set_gradient_checkpointing(encoder, False)
    torch.testing.assert_close(recomputed.metrics, usual.metrics, rtol=0, atol=0)
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-7)


def test_a_checkpoint_and_an_exported_model_give_the_same_outputs(
    workload: AlbefWorkload, batch: Batch, tmp_path: Path
) -> None:
    config, model = workload.config, workload.model
    other = AlbefModel(config, KeyedRandom((8,)))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    workload.export(tmp_path)
    with AlbefInference.eval_mode(model.student, config.model) as inference:
        expected = embeddings(inference, batch)
    found = embeddings(load_exported(tmp_path), batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(embeddings(AlbefInference(other.student.eval(), config.model), batch), expected)


def test_a_teacher_in_evaluation_mode_forgets_what_it_derived_from_older_weights(micro_batch: Batch, clock: At) -> None:
    values = config_of("vit").model_dump(exclude={"model": {"vision"}})
    values = deep_merge(values, {"model": {"vision": {"name": "levit_128s"}, "image_size": 224}})
    config = AlbefConfig.model_validate(deep_merge(values, {"distillation": {"momentum": 0, "teacher_dropout": False}}))
    workload = AlbefWorkload(config)
    student, teacher = (model := workload.build(torch.device("cpu"), KeyedRandom((7,)))).student, model.teacher
    images = torch.randint(256, (2, 3, 224, 224), generator=KeyedRandom((2,)).torch(), dtype=torch.uint8)
    workload.begin_step(clock(0))
    with torch.no_grad():
        teacher.image_outputs(images)
        for name, parameter in student.named_parameters():
            if "attention_biases" in name:
                parameter.normal_(generator=KeyedRandom((name,)).torch())
    workload.begin_step(clock(1))
    with torch.no_grad():
        torch.testing.assert_close(teacher.image_outputs(images), student.eval().image_outputs(images))


def problem_keys(name: str, **values: Any) -> list[str]:
    model = {"vision": {"name": name}, "vision_weights": None, "text_weights": None, **values.pop("model", {})}
    config = AlbefConfig.model_validate({"model": model, **values})
    return [problem.key for problem in ENTRY.check(config, BatchShape(1, 4))]


@pytest.mark.parametrize(("name", "keys"), [("dla46_c", ["compute.gradient_checkpointing"]), ("test_resnet", [])])
def test_an_encoder_without_gradient_checkpointing_is_refused(name: str, keys: list[str]) -> None:
    assert problem_keys(name, compute={"gradient_checkpointing": True}) == keys


@pytest.mark.parametrize(
    ("name", "lock", "keys"),
    [
        ("test_vit", 6, []),
        ("test_vit", 7, ["model.lock.vision"]),
        ("vit_small_patch16_rope_mixed_224", 1, ["model.lock.vision"]),  # all blocks use one trained rotation
        ("vit_small_patch16_rope_mixed_224", "all", []),
    ],
)
def test_a_lock_that_does_not_fit_the_encoder_is_refused(name: str, lock: int | str, keys: list[str]) -> None:
    assert problem_keys(name, model={"lock": {"vision": lock}}) == keys
