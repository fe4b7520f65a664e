"""WebDataset tar shards: scanning them for the extent of each sample, parsing a sample's bytes, writing shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Self, cast

from orchestrator.stream.dataset.index import ByteStream
from orchestrator.stream.dataset.judgement import check_captions, judging, make_sample, parse_fields
from orchestrator.stream.dataset.sidecar import Content, Unreadable, join_captions, parse_captions
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
MEMBERS_SHOWN = 6
"""Members of a sample that a message names."""

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


@dataclass(frozen=True, slots=True)
class ScannedSample:
    """A sample of a tar shard with the extent of its members: `size` bytes from `offset` on."""

    offset: int
    size: int
    content: Content


def scan(shard: ByteStream) -> Iterator[ScannedSample]:
    """Yield the samples of a tar shard: consecutive members with the same name up to the first dot are a sample.

    The shard is read once, from beginning to end. Files that macOS adds are passed over.

    Raises:
        tarfile.TarError: the shard is not a tar file, is truncated, or is damaged between its members.
    """
    recorder = _Recorder(shard)
    current: _Extent | None = None
    with tarfile.open(
        fileobj=cast(IO[bytes], recorder), mode="r|", bufsize=SCAN_BYTES, tarinfo=_StrictHeader
    ) as archive:
        while (member := _next(archive)) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            if not member.isfile() or is_of_macos(member.name):
                continue
            key = _key(member.name)  # names that are not UTF-8 stay distinct
            if current is None or key != current.key:
                if current is not None:
                    yield recorder.sample(current)
                current = _Extent(key, member.offset)
                recorder.forget(member.offset)
            current.stop = archive.offset
        if current is not None:
            yield recorder.sample(current)
        _check_end(archive)


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
        BadSample: the extent is too large or truncated, a member is repeated or malformed, or there is no image, more
            than one, or no caption.
    """
    if size > MAX_SAMPLE_BYTES:
        raise BadSample("sample is too large", f"{size} bytes, the limit is {MAX_SAMPLE_BYTES}")
    if len(content) < size:
        raise BadSample("shard is truncated", f"{len(content)} of {size} bytes")
    with judging():
        members = _by_suffix(_members(content))
        image = members[_image_suffix(key, members)]
        captions, fields = _captions(members)
        check_captions(captions, "neither a .txt member nor `caption` in .json")
        return make_sample(key, image, captions, fields)


def parsed(key: str, content: bytes, size: int) -> Content:
    """Return a sample from the bytes of its members, or why it cannot be used; arguments as in `parse`."""
    try:
        return parse(key, content, size)
    except BadSample as fault:
        return Unreadable(key, fault)


def is_of_macos(name: str) -> bool:
    """Return whether a file is one that macOS adds to archives and folders: attributes of another file, no content."""
    folder, _, base = name.rpartition("/")
    return base.startswith("._") or base == ".DS_Store" or "__MACOSX" in folder.split("/")


def image_suffix(image: bytes) -> str:
    """Return the file suffix of an encoded image, from its first bytes."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((suffix for start, suffix in IMAGE_STARTS.items() if image.startswith(start)), "png")


@dataclass(slots=True)
class _Extent:
    """The members of a sample during the scan, to which more may be added."""

    key: str
    offset: int
    stop: int = 0


class _Recorder:
    """A stream that remembers what was read from some offset on, unless that is more than a sample may have."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._start = 0
        self._content = bytearray()

    def read(self, size: int, /) -> bytes:
        block = self._stream.read(size)
        if len(self._content) > MAX_SAMPLE_BYTES + SCAN_BYTES:
            self.forget(self._start + len(self._content))
        self._content += block
        return block

    def forget(self, offset: int) -> None:
        """Forget what is before an offset."""
        del self._content[: max(0, offset - self._start)]
        self._start = max(self._start, offset)

    def sample(self, extent: _Extent) -> ScannedSample:
        size, start = extent.stop - extent.offset, extent.offset - self._start
        content = bytes(self._content[start : start + size]) if start >= 0 else b""
        return ScannedSample(extent.offset, size, parsed(_valid(extent.key), content, size))


class _StrictHeader(tarfile.TarInfo):
    """A header whose damage or absence is an error."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except DAMAGED_HEADERS as error:
            raise tarfile.ReadError(f"there is no whole header at byte {archive.offset} ({error})") from error


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except (ValueError, OverflowError) as error:  # some damage comes out of tarfile's parsers as it is
        raise tarfile.ReadError(f"there is no whole header at byte {archive.offset} ({error})") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Read the rest after the last member, which must be zeros."""
    end = archive.offset
    while block := archive.fileobj.read(SCAN_BYTES):
        if block.count(0) != len(block):
            raise tarfile.ReadError(f"something follows the end of the archive at byte {end}")


def _by_suffix(members: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    by_suffix: dict[str, bytes] = {}
    for name, content in members:
        suffix = _suffix(name)
        if suffix in by_suffix:
            raise BadSample("member is repeated", f"{name.rpartition('/')[2]} is there twice")
        by_suffix[suffix] = content
    return by_suffix


def _image_suffix(key: str, members: Mapping[str, bytes]) -> str:
    """Return the suffix of the only image among a sample's members."""
    present = [suffix for suffix in IMAGE_SUFFIXES if suffix in members]
    if len(present) == 1:
        return present[0]
    if present:
        raise BadSample("image is ambiguous", f"images that end in .{' and in .'.join(present)}; keep one of them")
    shown = ", ".join(sorted(members)[:MEMBERS_SHOWN]) + (" ..." if len(members) > MEMBERS_SHOWN else "")
    dotted = any(suffix.rpartition(".")[2] in IMAGE_SUFFIXES for suffix in members)
    advice = f"; the key {key!r} ends at the first dot of the file name, so rename files with more dots"
    raise BadSample("image is missing", f"members: {shown}{advice if dotted else ''}")


def _captions(members: Mapping[str, bytes]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the captions in a sample's .txt and .json, and the other fields of its .json."""
    fields = parse_fields(_text(members["json"])) if "json" in members else {}
    in_json = [parse_captions(fields.pop(name, None)) for name in ("captions", "caption")]
    in_text = [_text(members["txt"])] if "txt" in members else []
    return join_captions(in_text, *in_json), fields


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the plain files among a sample's members, without those of macOS."""
    return ((name, part) for name, part in _plain_files(content) if not is_of_macos(name))


def _plain_files(content: bytes) -> Iterator[tuple[str, bytes]]:
    offset = 0
    while offset < len(content):
        header = content[offset : offset + BLOCK_BYTES]
        if header[TYPE : TYPE + 1] not in PLAIN_FILES:
            yield from _members_by_tarfile(content[offset:])
            return
        size = _checked_size(header)
        start = offset + BLOCK_BYTES
        if not (name := _name(header)).endswith("/"):
            yield name, content[start : start + size]
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
    name, folder = header[:100].partition(b"\0")[0], header[PREFIX].partition(b"\0")[0]
    is_posix = header[257:263] == b"ustar\0"
    return (folder + b"/" + name if folder and is_posix else name).decode("utf-8", "replace")


def _members_by_tarfile(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield members with extended headers (long names, other tar dialects); slower."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    yield _valid(member.name), _content(archive, member)
    except tarfile.TarError as error:
        raise BadSample("shard is corrupt", str(error)) from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_SAMPLE_BYTES:
        raise BadSample("member is too large", f"{member.name}: {member.size} bytes")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("caption is not UTF-8", str(error)) from error


def _valid(name: str) -> str:
    """Return a member's name with a replacement for what is not UTF-8, which tarfile escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
