"""The emoji corpus as the entry point `emoji` of the group `fuseray.corpora`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from workloads.contract import Example
from workloads.corpora.emoji_config import EmojiConfig


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
