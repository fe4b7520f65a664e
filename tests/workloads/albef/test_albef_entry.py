import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from workloads.albef.config import AlbefConfig
from workloads.albef.entry import ENTRY
from workloads.albef.model import AlbefModel
from workloads.contract import BatchShape, DescribedEntry, KeyedRandom, WorkloadEntry
from workloads.transforms.pairs import PairTransform

SHAPE = BatchShape(micro_batches=4, micro_batch_size=16)


def config(**values: Any) -> AlbefConfig:
    return ENTRY.config_type.model_validate({"model": {"preset": "tiny"}, **values})


def model(**values: Any) -> AlbefConfig:
    return config(model={"preset": "tiny", **values})


def keys(settings: AlbefConfig, shape: BatchShape = SHAPE) -> list[str]:
    return [problem.key for problem in ENTRY.check(settings, shape)]


def test_importing_and_checking_needs_no_torch() -> None:
    script = (
        "import sys; from workloads.contract import BatchShape; from workloads.albef.entry import ENTRY\n"
        "settings = ENTRY.config_type.model_validate({'model': {'preset': 'tiny'}})\n"
        "assert not list(ENTRY.check(settings, BatchShape(4, 16)))\n"
        "print([name for name in ('torch', 'timm', 'transformers', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_entry_follows_the_contract() -> None:
    assert isinstance(ENTRY, WorkloadEntry)
    assert isinstance(ENTRY, DescribedEntry)
    transform = ENTRY.transform(config(text={"tokenizer": "minilm", "max_tokens": 9}))
    assert isinstance(transform, PairTransform)
    assert (transform.image_size, transform.text.max_tokens) == ((64, 64), 9)


@pytest.mark.parametrize("preset", ["mini", "tiny"])
def test_presets_are_sound(preset: str) -> None:
    assert not keys(config(model={"preset": preset}))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (model(image_size=60), "model.image_size"),
        (model(vision={"heads": 3}), "model.vision.heads"),
        (model(text={"heads": 5}), "model.text.heads"),
        (model(text={"positions": 24}), "text.max_tokens"),
        (model(text={"vocabulary": 30000}), "model.text.vocabulary"),
        (config(contrastive={"queue_size": 63}), "contrastive.queue_size"),
        (config(contrastive={"enabled": False}), "matching.hard_negatives"),
        (config(adversarial={"steps": 2, "perturb": ()}), "adversarial.perturb"),
        (config(adversarial={"steps": 2, "perturb": ("text", "text")}), "adversarial.perturb"),
        (config(adversarial={"steps": 1}), "adversarial.steps"),
        (config(adversarial={"steps": 2, "form": "together"}), "adversarial.form"),
        (config(adversarial={"steps": 2, "form": "alternating", "perturb": ("image",)}), "adversarial.form"),
        (config(adversarial={"steps": 2, "image_at": "patches"}), "adversarial.image_at"),
        (config(adversarial={"steps": 2, "init": "uniform", "max_norm": 0.005}), "adversarial.init_radius"),
        (
            config(adversarial={"steps": 2}, matching={"enabled": False}, masking={"enabled": False}),
            "adversarial.steps",
        ),
        (
            config(contrastive={"enabled": False}, matching={"enabled": False}, masking={"enabled": False}),
            "contrastive.enabled",
        ),
    ],
)
def test_an_impossible_recipe_names_its_key(settings: AlbefConfig, key: str) -> None:
    assert keys(settings) == [key]


def named(name: str, size: object = 64, **values: Any) -> AlbefConfig:
    vision = {"name": name, **values.pop("vision", {})}
    return config(model={"preset": "tiny", "image_size": size, "vision": vision, **values})


NAMED: dict[str, tuple[AlbefConfig, str, str]] = {
    "unknown name": (
        named("test_vitt"),
        "model.vision.name",
        "timm has no model test_vitt; choose one such as test_vit",
    ),
    "unknown tag": (named("test_vit.in9k"), "model.vision.name", "no weights in9k of test_vit; choose test_vit.r160"),
    "pyramid": (named("pit_ti_224", 224), "model.vision.name", "gives no grid of tokens.*; choose another encoder"),
    "two branches": (named("crossvit_9_240", 240), "model.vision.name", "gives no grid of tokens.*; choose another"),
    "cut patches": (named("test_vit", 60), "model.image_size", "60 x 60 pixels are no multiple of the patches .* 16"),
    "one cut side": (named("test_vit", [64, 40]), "model.image_size", "64 x 40 pixels are no multiple of the patches"),
    "refused size": (
        named("efficientformer_l1", 64),
        "model.image_size",
        "64 x 64 pixels.*; leave it out, for 224",
    ),
    "sizes beside": (
        named("test_vit", vision={"width": 64}),
        "model.vision.width",
        "comes with test_vit; leave it out",
    ),
    "epsilon beside": (named("test_vit", vision={"norm_epsilon": 1e-6}), "model.vision.norm_epsilon", "leave it out"),
    "blocks": (named("test_vit", lock={"vision": 7}), "model.lock.vision", "of 6 blocks of test_vit; set at most 6"),
    "text layers": (named("test_vit", lock={"text": 2}), "model.lock.text", "1 text layers; set at most 1, or all"),
    "no mean": (named("test_vit", vision={"mean": None}), "model.vision.mean", "is null; leave it out"),
    "no size": (named("test_vit", None), "model.image_size", "set it"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_named_encoder_that_cannot_be_used_is_refused_with_what_to_do(kind: str) -> None:
    settings, key, reason = NAMED[kind]
    (problem,) = ENTRY.check(settings, SHAPE)
    assert problem.key == key
    assert re.search(reason, problem.message), problem.message


def test_an_encoder_without_blocks_is_locked_as_a_whole() -> None:
    name = "poolformerv2_s12"
    (problem,) = ENTRY.check(named(name, lock={"vision": 1}), SHAPE)
    assert (problem.key, problem.message) == ("model.lock.vision", f"timm tells of 0 blocks of {name}; set all")
    assert not list(ENTRY.check(named(name, lock={"vision": "all"}), SHAPE))


@pytest.mark.parametrize(("lock", "key"), [({"vision": 4}, "model.lock.vision"), ({"text": 2}, "model.lock.text")])
def test_no_more_can_stay_unlocked_than_there_is(lock: dict[str, int], key: str) -> None:
    assert keys(model(lock=lock)) == [key]
    ((name, number),) = lock.items()
    assert not keys(model(lock={name: number - 1}))
    assert not keys(model(lock={name: "all"}))


def test_patches_without_a_first_layer_that_timm_names_cannot_be_perturbed() -> None:
    options = {"steps": 2, "perturb": ["image"], "image_at": "patches"}
    perturbed = {"adversarial": config(adversarial=options).adversarial}
    assert "adversarial.image_at" in keys(named("csatv2", 512).model_copy(update=perturbed))
    assert "adversarial.image_at" not in keys(named("test_vit").model_copy(update=perturbed))


def test_the_description_tells_grid_pooling_and_what_is_trained() -> None:
    image, _ = ENTRY.describe(model())
    assert image == (
        "the ViT makes of 64 x 64 pixels a grid of 8 x 8 tokens of width 128 after 1 of the prefix; what stands for "
        "the image is its class token, of width 128"
    )
    image, parameters, statistics = ENTRY.describe(
        named("test_efficientnet", vision_weights=None, lock={"text": "all"})
    )
    assert image.startswith("test_efficientnet makes of 64 x 64 pixels a grid of 2 x 2 tokens of width 256; ")
    assert image.endswith("what stands for the image is its mean, of width 256")
    assert re.search(
        r"parameters are trained, locked are ([\d,]+) of \1 in the word embeddings and ([\d,]+) of \2 in the t",
        parameters,
    )
    assert statistics.startswith("training does not change the statistics of its BatchNorm layers")


def test_the_described_numbers_are_those_of_the_built_model() -> None:
    settings = named("test_vit", vision_weights=None, lock={"vision": 2, "text": "all"})
    built = AlbefModel(settings, KeyedRandom((0,)))
    trained = sum(value.numel() for value in built.student.parameters() if value.requires_grad)
    total = sum(value.numel() for value in built.student.parameters())
    teacher = sum(value.numel() for value in built.teacher.parameters())
    _, parameters = ENTRY.describe(settings)
    assert parameters.startswith(f"{trained:,} of {total:,} parameters are trained")
    assert parameters.endswith(f"the teacher has {teacher:,} of its own")
    assert "in the image encoder" in parameters


def test_matching_needs_two_pairs() -> None:
    single = BatchShape(micro_batches=4, micro_batch_size=1)
    assert keys(config(), single) == ["batch.micro_batch_size"]
    assert not keys(config(matching={"enabled": False}), single)


def test_a_tokenizer_with_other_special_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "[UNK]": 4}
    Tokenizer(models.WordPiece(words, unk_token="[UNK]")).save(str(path))  # noqa: S106
    problems = list(ENTRY.check(config(text={"tokenizer": str(path)}), SHAPE))
    assert [problem.key for problem in problems] == ["text.tokenizer"] * 2
    assert "[CLS] must have the id 101" in problems[0].message


def warned(settings: AlbefConfig, steps: int) -> list[str]:
    return [problem.key for problem in ENTRY.warnings(settings, SHAPE, steps)]


def test_a_queue_that_the_run_is_too_short_for_is_warned_of() -> None:
    slow = config(contrastive={"queue_size": 1024}, distillation={"momentum": 0.995})  # 16 steps to fill, 200 to follow
    assert warned(slow, 3_999) == ["contrastive.queue_size"]
    assert not warned(slow, 4_000)
    assert not warned(config(contrastive={"queue_size": 0}), 100)
    assert not warned(config(contrastive={"enabled": False}, matching={"hard_negatives": False}), 100)


def test_a_teacher_that_moves_on_while_the_queue_fills_is_warned_of() -> None:
    def queue(momentum: float) -> AlbefConfig:
        return config(contrastive={"queue_size": 6400}, distillation={"momentum": momentum})  # 100 steps to fill

    assert warned(queue(0.98), 1_000_000) == ["distillation.momentum"]
    assert not warned(queue(0.991), 1_000_000)


def test_the_papers_recipe_is_not_warned_of() -> None:
    batch, steps = BatchShape(micro_batches=8, micro_batch_size=64), 30 * 5_100_000 // 512
    assert not list(ENTRY.warnings(ENTRY.config_type.model_validate({}), batch, steps))
