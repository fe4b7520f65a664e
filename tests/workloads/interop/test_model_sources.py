"""A name on the hub is found in the cache of a hub that cannot be reached, whichever of its files is there."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workloads.albef.config import TextConfig
from workloads.contract import WorkloadError
from workloads.interop.model_sources import cached, fetch
from workloads.interop.weight_files import WEIGHT_FILES, open_weights
from workloads.transforms.text import load_tokenizer

NAME = "some/bert"
WORDS = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n"


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a model in a cache, without files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--bert"
    folder = repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_one_file_of_weights_is_enough(file: str, snapshot: Path) -> None:
    tensors = {"weight": torch.ones(3)}
    save_file(tensors, snapshot / file) if file.endswith(".safetensors") else torch.save(tensors, snapshot / file)
    assert fetch(NAME, WEIGHT_FILES, "model.text_weights") == cached(NAME, WEIGHT_FILES) == snapshot / file
    assert torch.equal(open_weights(snapshot / file).load()["weight"], torch.ones(3))


def test_an_index_counts_once_all_of_its_shards_are_there(snapshot: Path) -> None:
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    assert cached(NAME, WEIGHT_FILES) is None
    save_file({"a": torch.ones(1)}, snapshot / "a.safetensors")
    assert cached(NAME, WEIGHT_FILES) == snapshot / "model.safetensors.index.json"


def test_a_vocabulary_alone_is_a_tokenizer(snapshot: Path) -> None:
    (snapshot / "vocab.txt").write_text(WORDS)
    assert load_tokenizer(TextConfig(tokenizer=NAME)).token_to_id("dog") == 5


def test_an_unreachable_hub_says_what_to_put_where(snapshot: Path) -> None:
    reason = (
        r"'some/bert' is no local file .* Put model.safetensors or .* set model.text_weights to the folder, or null"
    )
    with pytest.raises(WorkloadError, match=reason):
        fetch(NAME, WEIGHT_FILES, "model.text_weights", ", or null")


@pytest.mark.parametrize("name", ["no/such/name/at all", "name with blanks"])
def test_what_is_no_name_on_the_hub_is_refused(name: str, snapshot: Path) -> None:
    assert cached(name, WEIGHT_FILES) is None
    with pytest.raises(WorkloadError, match=f"^text.tokenizer: '{name}' is no local file"):
        load_tokenizer(TextConfig(tokenizer=name))
