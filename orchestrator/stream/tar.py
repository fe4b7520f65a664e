"""WebDataset tar shards: where each sample lies, and samples from byte ranges."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from workloads.contract import BadSample, Sample

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
BLOCK_BYTES = 512
MAX_SAMPLE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a sample's members lie in its shard: `size` bytes from `offset`."""

    key: str
    offset: int
    size: int

    @property
    def stop(self) -> int:
        """The first byte behind the sample."""
        return self.offset + self.size


def scan(shard: IO[bytes]) -> Iterator[Extent]:
    """Yield the samples of a tar shard; neighbouring members with one name up to the first dot are a sample.

    Raises:
        tarfile.TarError: the shard is not a tar file.
    """
    current: Extent | None = None
    with tarfile.open(fileobj=shard, mode="r:") as archive:
        for member in archive:
            if not member.isfile():
                continue
            key, stop = _key(member.name), member.offset_data + _padded(member.size)
            if current is not None and key == current.key:
                current = replace(current, size=stop - current.offset)
                continue
            if current is not None:
                yield current
            current = Extent(key, member.offset, stop - member.offset)
    if current is not None:
        yield current


def write(samples: Sequence[Sample]) -> bytes:
    """Return a tar shard: `KEY.png` (or its true suffix) and `KEY.json` with captions and fields per sample.

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
        content: what could be read of its extent.
        size: the extent's full size in bytes.

    Raises:
        BadSample: the extent is cut short or holds no image or no caption.
    """
    if len(content) < size:
        raise BadSample("shard is truncated", f"{len(content)} of {size} bytes")
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            members = {_suffix(member.name): _content(archive, member) for member in archive if member.isfile()}
    except tarfile.TarError as error:
        raise BadSample("shard is corrupt", str(error)) from error
    image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
    if image is None:
        raise BadSample("image is missing", f"members: {', '.join(sorted(members))}")
    fields = _json(members.get("json", b"{}"))
    captions = _captions(fields.pop("captions", fields.pop("caption", None)))
    if "txt" in members:
        captions = (_text(members["txt"]), *captions)
    if not captions:
        raise BadSample("caption is missing", "neither a .txt member nor `caption` in .json")
    return Sample(key, image, captions, fields)


def image_suffix(image: bytes) -> str:
    """Return the file suffix that an encoded image's first bytes call for."""
    if image.startswith(b"\x89PNG"):
        return "png"
    if image.startswith(b"\xff\xd8"):
        return "jpg"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return "gif" if image.startswith(b"GIF8") else "png"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_SAMPLE_BYTES:
        raise BadSample("member is too large", f"{member.name}: {member.size} bytes")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _json(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_text(content))
    except json.JSONDecodeError as error:
        raise BadSample("json is malformed", str(error)) from error
    if not isinstance(value, dict):
        raise BadSample("json is malformed", "expected an object")
    return value


def _captions(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(caption, str) for caption in values):
        raise BadSample("caption is not text", repr(value)[:80])
    return tuple(values)


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
