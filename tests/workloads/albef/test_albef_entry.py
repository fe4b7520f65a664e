import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from workloads.albef.config import AlbefConfig
from workloads.albef.entry import ENTRY
from workloads.contract import BatchShape, WorkloadEntry
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
