"""Annotation files: lists of images with their captions, in the forms that the field has.

Known are ALBEF's list of objects and the same as JSON lines, metadata.jsonl as of imagefolder, COCO's captions,
Karpathy's splits, an object {path: caption}, and tables such as CC3M's. Which one a file is in, its content says, not
its name.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import DataSetError, HashingReader, file_digest
from orchestrator.stream.shards.lists.choices import ALL, SplitChoice, check_is_chosen, of_split
from orchestrator.stream.shards.lists.coco import ListedImage, coco_images, is_coco, is_karpathy, karpathy_images
from orchestrator.stream.shards.lists.image_ids import with_ids_of_one_kind
from orchestrator.stream.shards.lists.json_text import JsonObject, TextStream, objects_until
from orchestrator.stream.shards.sources import Item, key_of
from workloads.contract import BadSample

MAX_DOCUMENT_CHARACTERS = 1 << 30
"""Longest file that is a single JSON object; COCO's captions have 90 million."""

NAMES_SHOWN = 6
TEXT_SHOWN = 60

IMAGE_NAMES = ("image", "file_name")
"""What an object calls the path of its image, in order of preference: ALBEF and imagefolder."""

IMAGE_COLUMNS = ("image", "file_name", "filename", "filepath", "file_path", "image_path", "path", "image_url", "url")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TABLE_SUFFIXES = (".tsv", ".csv")

EXPECTED = (
    'expected a JSON list [{"image": PATH, "caption": TEXT or [TEXT, ...]}, ...] or such objects one a line '
    '("file_name" and "text" are known as well), COCO\'s captions, Karpathy\'s splits, an object {PATH: TEXT or '
    "[TEXT, ...]}, or a table (.tsv, .csv) of paths and captions"
)


@dataclass(frozen=True, slots=True)
class AnnotationFiles:
    """A `Source`: images that annotation files list.

    Args:
        files: the files.
        image_root: base of relative image paths; by default the folder of the first file.
        endpoint: address of an S3-compatible server, for images with `s3://` URIs.
        split: which split of lists that have several.

    Raises:
        DataSetError: a file is named twice.
    """

    files: tuple[Location, ...]
    image_root: Location | None = None
    endpoint: str | None = None
    split: SplitChoice = ALL

    def __post_init__(self) -> None:
        uris = [file.uri for file in self.files]
        repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
        if repeated:
            raise DataSetError(f"{repeated}: is named twice; every sample would be there twice.")

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return ", ".join(file.uri for file in self.files)

    def digest(self) -> str:
        """Return a digest of the files' content, of the image root and of the split."""
        content = hashlib.blake2b(self._root().uri.encode(), digest_size=16)
        content.update("".join(f"\0{name}" for name in self.split.taken).encode())
        for file in self.files:
            content.update(file_digest(file).encode())
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        """Yield the items of all files.

        Raises:
            DataSetError: a file is of no known form, malformed or truncated, has image ids of two kinds, has not the
                split that was chosen, or has several splits of which none was.
            StorageError: it cannot be read.
        """
        root = f"{self._root().uri}/"
        for file in self.files:
            listed = read_annotations(TextStream(HashingReader(file), file.uri), root, self.split)
            yield from with_ids_of_one_kind(of_split(listed, self.split, file.uri), file.uri)

    def left_out(self) -> dict[str, int]:
        """Return nothing: each file is taken."""
        return {}

    def locate(self, path: str) -> Location:
        """Return the location of an image."""
        scheme, is_uri, rest = path.partition("://")
        if is_uri and scheme != "file":
            bucket, _, name = rest.partition("/")
            return _bucket(f"{scheme}://{bucket}", self.endpoint) / name
        path = path.removeprefix("file://")
        return locate(path) if path.startswith("/") else self._root() / path

    def _root(self) -> Location:
        if self.image_root:
            return self.image_root
        first = self.files[0]
        return Location(first.filesystem, first.path.rpartition("/")[0], first.uri.rpartition("/")[0])


@lru_cache(maxsize=64)
def _bucket(uri: str, endpoint: str | None) -> Location:
    return locate(uri, endpoint)


def read_annotations(text: TextStream, root: str, split: SplitChoice) -> Iterator[Item]:
    """Yield the items of an annotation file; files of gigabytes need some megabytes of memory, a single object more.

    Args:
        text: the file.
        root: what absolute paths below the base of relative ones begin with; it does not count for keys.
        split: the choice of a split, which a file of several needs; the items are of all.

    Raises:
        DataSetError: it is of no known form, malformed or truncated, or needs a choice of a split.
    """
    start = text.peek()
    if start == "[" and not text.name.lower().endswith(TABLE_SUFFIXES):
        text.skip()
        text.position += 1
        yield from _records(objects_until(text, "]"), root)
        text.position += 1
        if text.skip():
            raise DataSetError(f"{text.name}: has something behind the end of its list.")
    elif start == "{" and not text.name.lower().endswith(TABLE_SUFFIXES):
        text.skip()
        first = text.item(0, MAX_DOCUMENT_CHARACTERS)
        if text.skip():
            yield from _records(_chained(first, text), root)
        else:
            yield from _document(first, text.name, root, split)
    else:
        yield from _table(text, root)


def _chained(first: JsonObject, text: TextStream) -> Iterator[JsonObject]:
    yield first
    yield from objects_until(text, "", 1)


def _records(records: Iterator[JsonObject], root: str) -> Iterator[Item]:
    """Yield an item per object."""
    for record in records:
        yield _item(_image_of(record), _with_caption(record), root)


def _item(image: str, record: Mapping[str, Any], root: str, fault: BadSample | None = None) -> Item:
    return Item(key_of(image.removeprefix(root)), image, record, fault=fault)


def _image_of(record: Mapping[str, Any]) -> str:
    """Return the path of an object's image; empty when it names none."""
    return next((path for name in IMAGE_NAMES if isinstance(path := record.get(name), str)), "")


def _with_caption(record: JsonObject) -> Mapping[str, Any]:
    """Return an object whose text is its caption if it has no other, as in imagefolder."""
    if record.get("text") is None or any(record.get(name) is not None for name in ("caption", "captions")):
        return record
    renamed = JsonObject({name: value for name, value in record.items() if name != "text"}, caption=record["text"])
    renamed.repeated = record.repeated
    return renamed


def _document(document: JsonObject, name: str, root: str, split: SplitChoice) -> Iterator[Item]:
    """Yield the items of a file that is a single object."""
    if is_coco(document):
        return _listed(coco_images(document, name), root)
    if is_karpathy(document):
        images = list(karpathy_images(document, name))
        check_is_chosen(split, (image.record.get("split") for image in images), name)
        return _listed(images, root)
    if _image_of(document):
        return _records(iter([document]), root)
    if document and all(map(_is_caption, document.values())):
        return _mapping(document, root)
    keys = ", ".join(map(repr, list(document)[:NAMES_SHOWN])) or "nothing"
    raise DataSetError(f"{name}: is a JSON object of no known form (it has {keys}); {EXPECTED}.")


def _is_caption(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(caption, str) for caption in value))


def _mapping(document: JsonObject, root: str) -> Iterator[Item]:
    for path, captions in document.items():
        twice = BadSample("caption is ambiguous", f"{path!r} is there twice") if path in document.repeated else None
        yield _item(path, {"image": path, "caption": captions}, root, twice)


def _listed(images: Iterable[ListedImage], root: str) -> Iterator[Item]:
    for listed in images:
        item = _item(listed.image, listed.record, root, listed.fault)
        yield replace(item, key=listed.key) if listed.key else item


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The columns of a table.

    Args:
        names: of all columns.
        image: number of the column of paths.
        caption: number of the column of captions.
        has_header: whether the first line names them.
    """

    names: tuple[str, ...]
    image: int
    caption: int
    has_header: bool


def _table(text: TextStream, root: str) -> Iterator[Item]:
    """Yield the items of a table: columns apart by tabs, as they are; or by commas, quoted where needed."""
    first = text.first_line()
    split = _split_at_tabs if "\t" in first else _split_at_commas
    try:
        columns = _columns(next(split(iter([first])), []), text.name)
        for number, row in enumerate(split(text.lines()), start=1):
            if any(row) and not (number == 1 and columns.has_header):
                yield _row_item(row, number, columns, root)
    except csv.Error as error:
        raise DataSetError(f"{text.name}: is not readable as a table ({error}); {EXPECTED}.") from error


def _split_at_tabs(lines: Iterator[str]) -> Iterator[list[str]]:
    return (line.split("\t") for line in lines)


def _split_at_commas(lines: Iterator[str]) -> Iterator[list[str]]:
    return csv.reader(f"{line}\n" for line in lines)


def _row_item(row: Sequence[str], number: int, columns: TableColumns, root: str) -> Item:
    if len(row) != len(columns.names):
        fault = BadSample(
            "row is malformed", f"line {number} has {len(row)} columns, the first has {len(columns.names)}"
        )
        return Item(f"line {number}", "", {}, fault=fault)
    image, caption = row[columns.image].strip(), row[columns.caption]
    others = {
        name: value
        for column, (name, value) in enumerate(zip(columns.names, row, strict=True))
        if column not in (columns.image, columns.caption)
    }
    return _item(image, {**others, "image": image, "caption": caption}, root)


def _columns(first: Sequence[str], name: str) -> TableColumns:
    """Return the columns of a table from its first line.

    Raises:
        DataSetError: it does not say which column names the image and which is the caption.
    """
    names = tuple(cell.strip() for cell in first)
    images = [number for number, cell in enumerate(names) if cell.lower() in IMAGE_COLUMNS]
    captions = [number for number, cell in enumerate(names) if cell.lower() in CAPTION_COLUMNS]
    if images and captions:
        _check_header(names, images, captions, name)
        return TableColumns(names, images[0], captions[0], has_header=True)
    addresses = [number for number, cell in enumerate(names) if _is_address(cell)]
    if len(names) != 2 or len(addresses) != 1:
        shown = repr("\t".join(first)[:TEXT_SHOWN])
        raise DataSetError(f"{name}: is no annotation file of a known form (it begins with {shown}); {EXPECTED}.")
    return TableColumns(("", ""), addresses[0], 1 - addresses[0], has_header=False)


def _check_header(names: Sequence[str], images: Sequence[int], captions: Sequence[int], name: str) -> None:
    for what, numbers in (("image", images), ("caption", captions)):
        if len(numbers) > 1:
            candidates = ", ".join(names[number] for number in numbers)
            raise DataSetError(f"{name}: several columns may be the {what}: {candidates}; rename all but one.")
    repeated = next((cell for cell in names if names.count(cell) > 1), None)
    if repeated is not None:
        raise DataSetError(f"{name}: has the column {repeated!r} twice; rename one of them.")


def _is_address(cell: str) -> bool:
    return "://" in cell or cell.lower().partition("?")[0].endswith(IMAGE_SUFFIXES)
