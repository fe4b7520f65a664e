from __future__ import annotations

import pytest

from workloads.corpora.emoji_names import (
    caption,
    captions,
    concept,
    from_hexcode,
    has_skin_tone,
    is_place_flag,
    normalised,
    tags,
    to_hexcode,
)

GROUPS = {
    "firefighter": "🧑‍🚒 👨‍🚒 👩‍🚒 🧑🏻‍🚒 👨🏿‍🚒",
    "running": "🏃 🏃‍♀️ 🏃🏽‍♂️ 🏃‍➡️ 🏃🏿‍♀️‍➡️",
    "person": "🧑 👨 👩🏾 🧓 👴 👵🏻",
    "child": "🧒 👦 👧🏼",
    "crown": "🫅 🤴 👸🏽",
    "Santa": "🎅 🤶 🧑‍🎄 🧑🏿‍🎄",
    "pregnant": "🤰 🫃 🫄🏽",
    "holding hands": "👫 👬 👭🏽 🧑‍🤝‍🧑 👩🏻‍🤝‍👨🏿",
    "kiss": "💏 👩‍❤️‍💋‍👨 👨🏻‍❤️‍💋‍👨🏿 🧑🏻‍❤️‍💋‍🧑🏽",
    "heart": "💑 👩‍❤️‍👨 👩🏼‍❤️‍👩🏽",
    "family": "👪 👨‍👩‍👧 👩‍👩‍👧‍👦 👨‍👦 🧑‍🧑‍🧒",
    "handshake": "🤝 🤝🏽 🫱🏻‍🫲🏿",
    "thumb": "👍 👍🏿",
    "red hair": "👨‍🦰 👩🏽‍🦰 🧑‍🦰",
    "cat": "🐈",
    "female sign": "♀️",
    "male sign": "♂️",
    "arrow": "➡️",
    "heart itself": "❤️",
    "keycap": "8️⃣",
}


def concepts_of(group: str) -> set[str]:
    return {concept(normalised(text)) for text in GROUPS[group].split()}


@pytest.mark.parametrize("group", GROUPS)
def test_variants_share_a_concept(group: str) -> None:
    assert len(concepts_of(group)) == 1


def test_different_things_have_different_concepts() -> None:
    assert len({next(iter(concepts_of(group))) for group in GROUPS}) == len(GROUPS)


def test_every_emoji_has_a_concept_without_variants() -> None:
    for sequence in captions():
        result = concept(sequence)
        assert result
        assert not has_skin_tone(result)
        assert concept(result) == result


def test_hexcodes_round_trip_without_the_variation_selector() -> None:
    assert to_hexcode(from_hexcode("1F9D1-200D-2695-FE0F")) == "1F9D1-200D-2695"


@pytest.mark.parametrize("hexcode", ["", "XYZ", "1F600-", "FFFFFFFF"])
def test_a_malformed_hexcode_is_refused(hexcode: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        from_hexcode(hexcode)


@pytest.mark.parametrize(
    ("emoji", "text"),
    [
        ("🧗🏾‍♂️", "man climbing, medium-dark skin tone"),
        ("👨🏾‍🦰", "man, medium-dark skin tone, red hair"),
        ("👩🏻‍🤝‍👨🏿", "woman and man holding hands, light skin tone, dark skin tone"),
        ("🇫🇷", "flag of France"),
        ("🏴󠁧󠁢󠁷󠁬󠁳󠁿", "flag of Wales"),
        ("🏴‍☠️", "pirate flag"),
        ("😀", "grinning face"),
        ("🔆", "bright button"),
        ("8️⃣", "keycap 8"),
    ],
)
def test_captions_read_naturally(emoji: str, text: str) -> None:
    assert captions()[normalised(emoji)] == text


def test_captions_are_distinct_and_clean() -> None:
    texts = list(captions().values())
    assert len(set(texts)) == len(texts) > 3_900
    assert not [text for text in texts if "_" in text or ":" in text or ",," in text or text != text.strip(" ,")]


def test_a_short_name_becomes_a_caption() -> None:
    assert caption("x", ":some_thing_dark_skin_tone:") == "some thing, dark skin tone"


def test_only_flags_of_places_count_as_such() -> None:
    assert is_place_flag("🇩🇪")
    assert not is_place_flag("🏁")


def test_tags_are_words_other_than_the_name() -> None:
    result = tags("😀")
    assert "smile" in result
    assert "grinning face" not in result
    assert not [word for word in result if not word[0].isalnum()]
    assert result == tuple(sorted(result))


def test_no_tag_is_an_emoticon() -> None:
    every = {word for sequence in captions() for word in tags(sequence)}
    assert not every & {":)", ":D", "XD", "^^", ":/", ";)", "¯\\"}
    assert len(every) > 3_500


def test_a_skin_tone_variant_without_tags_has_those_of_its_base() -> None:
    assert tags(normalised("👍🏿")) == tags("👍") != ()
