"""WebDataset tar shards: scanning them for the extent of each sample, parsing a sample's bytes, writing shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Self, cast

from orchestrator.stream.dataset.index import ByteStream
from orchestrator.stream.dataset.sidecar import SidecarEntry, count_words, parse_captions
from workloads.contract import BadSample, Sample

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
BLOCK_BYTES = 512
MAX_SAMPLE_BYTES = 256 * 1024 * 1024
IMAGE_STARTS = {
    b"\x89PNG": "png",
    b"\xff\xd8": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
TEXT_SUFFIXES = ("txt", "json")
MAX_TEXT_BYTES = 4 * 1024 * 1024
"""The words of larger captions are not counted when a shard is scanned."""
SCAN_BYTES = 32 * 1024
"""tarfile copies its read-ahead buffer with every header, so a large buffer is slow."""
DAMAGED_HEADERS = (
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]
)
"""What tarfile accepts as the end of an archive, though the end is marked by zeros."""
SIZE, CHECKSUM, TYPE, PREFIX = slice(124, 136), slice(148, 156), 156, slice(345, 500)
"""Fields of a tar header (POSIX ustar)."""
PLAIN_FILES = (b"0", b"\0")


def scan(shard: ByteStream) -> Iterator[SidecarEntry]:
    """Yield the samples of a tar shard: consecutive members with the same name up to the first dot are a sample.

    The shard is read once, from beginning to end.

    Raises:
        tarfile.TarError: the shard is not a tar file, is truncated, or is damaged between its members.
    """
    current: _OpenSample | None = None
    with tarfile.open(fileobj=cast(IO[bytes], shard), mode="r|", bufsize=SCAN_BYTES, tarinfo=_StrictHeader) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            if not member.isfile():
                continue
            key = _key(member.name)
            if current is None or key != current.key:
                if current is not None:
                    yield current.entry()
                current = _OpenSample(key, member.offset)
            current.add(archive, member)
        _check_end(archive)
    if current is not None:
        yield current.entry()


def write(samples: Sequence[Sample]) -> bytes:
    """Return a tar shard: `KEY.png` (or the suffix of its format) and `KEY.json` with captions and fields per sample.

    The bytes depend on the samples alone.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for sample in samples:
            _add(archive, f"{sample.key}.{image_suffix(sample.image)}", sample.image)
            text = json.dumps({"captions": list(sample.captions), **sample.fields}, ensure_ascii=False, sort_keys=True)
            _add(archive, f"{sample.key}.json", text.encode())
    return buffer.getvalue()


def parse(key: str, content: bytes, size: int) -> Sample:
    """Build a sample from the bytes of its members.

    Args:
        key: the sample's key.
        content: the bytes that could be read of its extent.
        size: the extent's full size in bytes.

    Raises:
        BadSample: the extent is truncated or holds no image or no caption.
    """
    if len(content) < size:
        raise BadSample("shard is truncated", f"{len(content)} of {size} bytes")
    members = {_suffix(name): part for name, part in _members(content)}
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    if image is None:
        raise BadSample("image is missing", f"members: {', '.join(sorted(members))}")
    captions, fields = _captions(members)
    if not captions:
        raise BadSample("caption is missing", "neither a .txt member nor `caption` in .json")
    return Sample(key, image, captions, fields)


def image_suffix(image: bytes) -> str:
    """Return the file suffix of an encoded image, from its first bytes."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((suffix for start, suffix in IMAGE_STARTS.items() if image.startswith(start)), "png")


@dataclass(slots=True)
class _OpenSample:
    """A sample during the scan, to which more members may be added."""

    key: str
    offset: int
    stop: int = 0
    texts: dict[str, bytes] = field(default_factory=dict)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.stop = member.offset_data + _padded(member.size)
        if _suffix(member.name) in TEXT_SUFFIXES and member.size <= MAX_TEXT_BYTES:
            self.texts[_suffix(member.name)] = _content(archive, member)

    def entry(self) -> SidecarEntry:
        try:
            captions, _ = _captions(self.texts)
        except BadSample:
            captions = ()
        return SidecarEntry(self.key, self.offset, self.stop - self.offset, count_words(captions))


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage or absence is an error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except DAMAGED_HEADERS as error:
            raise tarfile.ReadError(f"there is no whole header at byte {archive.offset} ({error})") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Read the rest after the last member, which must be zeros."""
    end = archive.offset
    while block := archive.fileobj.read(SCAN_BYTES):
        if block.count(0) != len(block):
            raise tarfile.ReadError(f"something follows the end of the archive at byte {end}")


def _captions(members: Mapping[str, bytes]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the distinct captions in a sample's .txt and .json, and the other fields of its .json."""
    fields = _json(members.get("json", b"{}"))
    captions = parse_captions(fields.pop("captions", fields.pop("caption", None)))
    if "txt" in members:
        captions = (_text(members["txt"]), *captions)
    return tuple(dict.fromkeys(captions)), fields


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the plain files among a sample's members."""
    offset = 0
    while offset < len(content):
        header = content[offset : offset + BLOCK_BYTES]
        if header[TYPE : TYPE + 1] not in PLAIN_FILES:
            yield from _members_by_tarfile(content[offset:])
            return
        size = _checked_size(header)
        start = offset + BLOCK_BYTES
        yield _name(header), content[start : start + size]
        offset = start + _padded(size)


def _checked_size(header: bytes) -> int:
    """Return the size in a member's header, after verifying its checksum."""
    try:
        expected, size = int(header[CHECKSUM].strip(b"\0 "), 8), int(header[SIZE].strip(b"\0 "), 8)
    except ValueError as error:
        raise BadSample("shard is corrupt", "a header is not one of tar's") from error
    if sum(header) - sum(header[CHECKSUM]) + len(header[CHECKSUM]) * ord(" ") != expected:
        raise BadSample("shard is corrupt", "a header's checksum is wrong")
    if size > MAX_SAMPLE_BYTES:
        raise BadSample("member is too large", f"{_name(header)}: {size} bytes")
    return size


def _name(header: bytes) -> str:
    name, folder = header[:100].rstrip(b"\0"), header[PREFIX].rstrip(b"\0")
    is_posix = header[257:263] == b"ustar\0"
    return (folder + b"/" + name if folder and is_posix else name).decode("utf-8", "replace")


def _members_by_tarfile(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield members with extended headers (long names, other tar dialects); slower."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, _content(archive, member)
    except tarfile.TarError as error:
        raise BadSample("shard is corrupt", str(error)) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_SAMPLE_BYTES:
        raise BadSample("member is too large", f"{member.name}: {member.size} bytes")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _json(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_text(content))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadSample("json is malformed", str(error)) from error
    if not isinstance(value, dict):
        raise BadSample("json is malformed", "expected an object")
    return value


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSample("caption is not UTF-8", str(error)) from error


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
