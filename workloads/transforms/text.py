"""Captions: cleaning and tokenisation as ALBEF does them.

The cleaning rules and the missing [SEP] are those of the official ALBEF code (dataset/utils.py and
models/tokenization_bert.py).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from workloads.contract import BadSample, WorkloadError
from workloads.transforms.tokenizer_files import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from workloads.pretrain.albef_config import TextConfig

__all__ = ["cached_tokenizer", "clean_caption", "clean_question", "encode", "load_tokenizer"]

_DELETED = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
_WHITESPACE_RUN = re.compile(r"\s{2,}")


def clean_caption(caption: str, max_words: int = 30) -> str:
    """Lower-case a caption, drop its punctuation and keep its first words.

    A single tab or newline inside the caption stays; a run of two or more blanks becomes one space.

    Args:
        caption: the caption as stored.
        max_words: words to keep, counted between spaces.
    """
    text = caption.lower().translate(_DELETED).replace("<person>", "person")
    text = _WHITESPACE_RUN.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def clean_question(question: str, max_words: int = 30) -> str:
    """Lower-case a question and drop its punctuation; blanks inside it stay as they are.

    Args:
        question: the question as stored.
        max_words: words to keep, counted between single spaces.
    """
    text = question.lower().translate(_DELETED).rstrip(" ")
    return " ".join(text.split(" ")[:max_words])


def encode(tokenizer: Tokenizer, caption: str, config: TextConfig) -> list[int]:
    """Return the ids of `[CLS] words`, with a closing `[SEP]` only where the recipe asks for one.

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
    ends = [_special(tokenizer, "[SEP]")] if config.separator else []
    words = tokenizer.encode(text, add_special_tokens=False).ids
    return [_special(tokenizer, "[CLS]"), *words[: config.max_tokens - 1 - len(ends)], *ends]


@lru_cache(maxsize=8)
def cached_tokenizer(config: TextConfig) -> Tokenizer:
    """Return the tokenizer of a text section, loaded once per process.

    Raises:
        WorkloadError: as `load_tokenizer`.
    """
    return load_tokenizer(config)


def _special(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise WorkloadError(f"text.tokenizer: the vocabulary has no {token}; choose a BERT (WordPiece) tokenizer")
    return number
