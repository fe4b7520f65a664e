"""Options of the emoji corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from workloads.contract import Example, Section


class EmojiConfig(Section):
    """What goes into the emoji corpus: drawings of emoji with their names as captions."""

    size: int = Field(default=128, ge=16, le=1024, description="Side of the square PNG images, in pixels.")
    skin_tones: bool = Field(default=True, description="Include the variants that differ only in skin tone.")
    held_out_share: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="Share of the concepts that go to the held-out split, about."
    )
    iconify: tuple[str, ...] = Field(
        default=(), description="Iconify JSON files (icons.json of an icon set); each adds one drawing style."
    )
    hold_out_style: str | None = Field(
        default=None, description="A style whose drawings all go to a split of their own, held-out-STYLE."
    )
    limit: int | None = Field(default=None, ge=1, description="Keep only this many examples, of all styles mixed.")
    processes: int = Field(default=2, ge=1, le=64, description="Processes that rasterise the drawings.")


# The emoji corpus as the entry point `emoji` of the group `fuseray.corpora`.


class EmojiCorpus:
    """Emoji drawings (OpenMoji, and any Iconify sets) with their Unicode names as captions."""

    config_type = EmojiConfig

    def describe(self, config: EmojiConfig) -> Mapping[str, str]:
        """Return source versions and digests, options, and how many drawings of each style are used or left out.

        Raises:
            WorkloadError: when a package or file is missing or malformed.
        """
        from workloads.corpora.emoji_build import describe

        return describe(config)

    def examples(self, config: EmojiConfig) -> Iterator[Example]:
        """Yield the corpus in a fixed shuffled order that mixes styles and subjects.

        Raises:
            WorkloadError: when a source is missing or malformed.
        """
        from workloads.corpora.emoji_build import examples

        return examples(config)


ENTRY = EmojiCorpus()
