from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from workloads.albef.config import TextConfig
from workloads.contract import BadSample, WorkloadError
from workloads.nn.vocabulary import CLS, UNK
from workloads.transforms.text import STAND_IN, clean_caption, encode, is_on_hub, load_tokenizer

MINILM = TextConfig(tokenizer="minilm")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(MINILM)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A man's red-shirt, (smiling): 5/6 <person>!", "a mans red shirt smiling 5 6 person"),
        ("  Two  dogs -- running \n", "two dogs running"),
        ('"Hello" #sunset @beach & $5; e.g. U.S.A.', "hello sunset @beach & $5 eg usa"),
        ("tab\tand\nnewline here  ", "tab\tand\nnewline here"),
        ("a<PERSON>b", "apersonb"),
        ("*?!", ""),
    ],
)
def test_cleaning_gives_what_the_official_code_gives(caption: str, cleaned: str) -> None:
    assert clean_caption(caption) == cleaned


def test_cleaning_keeps_the_first_words() -> None:
    words = [f"w{number}" for number in range(40)]
    assert clean_caption(" ".join(words)).split() == words[:30]
    assert clean_caption(" ".join(words), max_words=3).split() == words[:3]


def test_encoding_starts_with_cls_and_has_no_sep(tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, "Two dogs, running!", MINILM)
    assert [tokenizer.id_to_token(number) for number in ids] == ["[CLS]", "two", "dogs", "running"]


def test_a_separator_closes_even_a_truncated_caption(tokenizer: Tokenizer) -> None:
    config = TextConfig(tokenizer="minilm", separator=True, max_tokens=4)
    ids = encode(tokenizer, "one two three four five", config)
    assert [tokenizer.id_to_token(number) for number in ids] == ["[CLS]", "one", "two", "[SEP]"]


def test_a_long_caption_is_truncated_including_cls(tokenizer: Tokenizer) -> None:
    assert len(encode(tokenizer, "dog " * 29, MINILM)) == 25


@pytest.mark.parametrize("caption", ["", "   ", "...", "\t", "!?\n\n"])
def test_an_empty_caption_is_a_bad_sample(tokenizer: Tokenizer, caption: str) -> None:
    with pytest.raises(BadSample) as caught:
        encode(tokenizer, caption, MINILM)
    assert caught.value.reason == "caption is empty"


def test_the_tokenizer_neither_pads_nor_truncates(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("dog " * 300, add_special_tokens=False).ids) == 300
    assert len(tokenizer.encode("dog", add_special_tokens=False).ids) == 1


def test_files_and_folders_give_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer.save(str(tmp_path / "own.json"))
    caption = "An unbelievably fluffy dog's tail"
    expected = encode(tokenizer, caption, MINILM)
    for path in (tmp_path, tmp_path / "vocab.txt", tmp_path / "own.json"):
        config = TextConfig(tokenizer=str(path))
        assert encode(load_tokenizer(config), caption, config) == expected


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"tokenizer\.json"):
        load_tokenizer(TextConfig(tokenizer=str(tmp_path)))


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no file or folder"):
        load_tokenizer(TextConfig(tokenizer=str(tmp_path / "none")))


def test_a_damaged_tokenizer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WorkloadError, match="cannot be read as a tokenizer"):
        load_tokenizer(TextConfig(tokenizer=str(tmp_path)))


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ndog\n")
    with pytest.raises(WorkloadError, match=r"\[CLS\] at id None"):
        load_tokenizer(TextConfig(tokenizer=str(tmp_path)))


def test_an_unreachable_hub_names_the_file_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WorkloadError, match=r"'bert-base-uncased' is no local.*Put tokenizer\.json .*into a folder"):
        load_tokenizer(TextConfig())


def test_a_tokenizer_that_needs_nothing_makes_captions_as_long() -> None:
    stand_in, words = TextConfig(tokenizer=STAND_IN), "two dogs run over the grass"
    assert encode(load_tokenizer(stand_in), words, stand_in) == [CLS, *[UNK] * 6]
    assert len(encode(load_tokenizer(MINILM), words, MINILM)) == 7


def test_only_names_that_are_nowhere_here_are_on_the_hub(tmp_path: Path) -> None:
    local = ("minilm", STAND_IN, str(tmp_path), str(tmp_path / "none"), "vocab.txt", "./bert")
    assert [name for name in (*local, "bert-base-uncased", "google/bert") if is_on_hub(name)] == [
        "bert-base-uncased",
        "google/bert",
    ]


def test_a_malformed_hub_name_is_refused() -> None:
    with pytest.raises(WorkloadError, match="no local file or folder"):
        load_tokenizer(TextConfig(tokenizer="a/b/c"))
