"""Small valid inputs as shards in the wild look, one folder each: `make_case(name, folder)` writes one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAPTIONS = [f"a picture of thing {number}" for number in range(8)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""An image as Hugging Face's `datasets` stores it."""

Members = Iterable[tuple[str, bytes]]
Maker = Callable[[Path], None]
CASES: dict[str, Maker] = {}


def make_case(name: str, folder: Path) -> Path:
    """Write an input into a new folder below `folder`; return it."""
    place = folder / name
    place.mkdir(parents=True)
    CASES[name](place)
    return place


def case(maker: Maker) -> Maker:
    """Register the maker of an input under its function's name."""
    CASES[maker.__name__] = maker
    return maker


def colour(name: str | tuple[int, int, int], side: int = 32) -> bytes:
    """A JPEG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), name).save(buffer, "JPEG")
    return buffer.getvalue()


def picture(number: int) -> bytes:
    """A JPEG whose colour depends on its number."""
    return colour((number * 37 % 256, number * 91 % 256, 80), 48)


def pair(number: int, key: str | None = None) -> list[tuple[str, bytes]]:
    """The members of a sample."""
    key = str(number) if key is None else key
    return [(f"{key}.jpg", picture(number)), (f"{key}.txt", CAPTIONS[number].encode())]


def struct(number: int) -> dict[str, Any]:
    """An image as Hugging Face's `datasets` stores it, with its bytes."""
    return {"bytes": picture(number), "path": f"{number}.jpg"}


def tar(path: Path, members: Members, mode: str = "w", **options: Any) -> None:
    """Write a tar with some members in that order."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def parquet(path: Path, **columns: Any) -> None:
    """Write a Parquet file."""
    pq.write_table(pa.table(columns), path)


@case
def repeated_member(folder: Path) -> None:
    """Names that stand twice in a tar, as `tar -r` makes them."""
    colours = {"0": ("red", "blue"), "1": ("green",)}
    members = [
        member
        for key, names in colours.items()
        for name in names
        for member in ((f"{key}.jpg", colour(name)), (f"{key}.txt", f"a {name} square".encode()))
    ]
    tar(folder / "s.tar", [*members, ("1.jpg", colour("black"))])


@case
def own_index_file(folder: Path) -> None:
    """An `index.parquet` that is the user's."""
    tar(folder / "s.tar", pair(0))
    parquet(folder / "index.parquet", mine=[1, 2, 3])


@case
def left_out(folder: Path) -> None:
    """Shards of other spellings and in other places, beside one that is used."""
    modes = {"a.tar": "w", "b.tar.gz": "w:gz", "c.TAR": "w", "d.tgz": "w:gz", "sub/e.tar": "w"}
    for number, (name, mode) in enumerate(modes.items()):
        tar(folder / name, pair(number), mode)


@case
def hf_splits(folder: Path) -> None:
    """Three splits side by side, as `push_to_hub` lays them out."""
    for number, split in enumerate(("train", "test", "validation")):
        image = pa.array([struct(number)], STRUCT)
        parquet(folder / f"{split}-00000-of-00001.parquet", image=image, caption=[split])


@case
def hf_webdataset(folder: Path) -> None:
    """A WebDataset that went through `load_dataset` and `to_parquet`: its json is a struct."""
    fields = [{"caption": caption, "width": 48} for caption in CAPTIONS[:2]]
    images = pa.array([struct(0), struct(1)], STRUCT)
    parquet(folder / "p.parquet", __key__=["0", "1"], jpg=images, json=fields, txt=CAPTIONS[:2])


@case
def half_surrogate(folder: Path) -> None:
    """Half of a surrogate pair, escaped, in JSON."""
    tar(folder / "s.tar", [("0.jpg", picture(0)), ("0.json", b'{"caption": "so nice \\ud83d"}'), *pair(1)])


@case
def latin1_name(folder: Path) -> None:
    """A member's name in Latin-1."""
    tar(folder / "s.tar", [*pair(0, "caf\xe9"), *pair(1)], format=tarfile.GNU_FORMAT, encoding="latin-1")


@case
def odd_address(folder: Path) -> None:
    """One address that is none."""
    parquet(folder / "p.parquet", image_uri=["0.jpg", "http://[foo/1.jpg"], caption=CAPTIONS[:2])
    (folder / "0.jpg").write_bytes(picture(0))


@case
def view_types(folder: Path) -> None:
    """Columns of views, as DataFusion writes them."""
    images = pa.array([picture(0), picture(1)], pa.binary_view())
    parquet(folder / "p.parquet", image=images, caption=pa.array(CAPTIONS[:2], pa.string_view()))


@case
def image_list(folder: Path) -> None:
    """List[Image] of `datasets`."""
    parquet(folder / "p.parquet", images=pa.array([[struct(0)]], pa.list_(STRUCT)), caption=CAPTIONS[:1])


@case
def hf_paths(folder: Path) -> None:
    """Structs without bytes, of which one has a path from the root, as `datasets` writes local files."""
    cells = [{"bytes": None, "path": str(folder / "0.jpg")}, {"bytes": None, "path": "1.jpg"}]
    parquet(folder / "p.parquet", image=pa.array(cells, STRUCT), text=CAPTIONS[:2])
    _write_pictures(folder)


@case
def paths_as_images(folder: Path) -> None:
    """An image column of paths."""
    parquet(folder / "p.parquet", image=["0.jpg", "1.jpg"], caption=CAPTIONS[:2])
    _write_pictures(folder)


def _write_pictures(folder: Path) -> None:
    for number in (0, 1):
        (folder / f"{number}.jpg").write_bytes(picture(number))


APPLE_DOUBLE = b"\0\5\x16\7" + bytes(160)


@case
def apple_double(folder: Path) -> None:
    """The members that macOS adds."""
    members = [member for number in (0, 1) for member in pair(number)]
    added = [
        (f"./{before}{name}", content)
        for name, content in members
        for before, content in (("._", APPLE_DOUBLE), ("", content))
    ]
    tar(folder / "s.tar", added)


@case
def apple_double_file(folder: Path) -> None:
    """The file that macOS adds beside a shard."""
    tar(folder / "s.tar", pair(0))
    (folder / "._s.tar").write_bytes(APPLE_DOUBLE)


@case
def dots_in_keys(folder: Path) -> None:
    """Names with more dots than that of the suffix."""
    tar(folder / "s.tar", [member for number in range(3) for member in pair(number, f"v1.{number}")])


@case
def not_adjacent(folder: Path) -> None:
    """All images, then all captions."""
    pairs = [pair(number) for number in range(3)]
    tar(folder / "s.tar", [members[part] for part in (0, 1) for members in pairs])


@case
def long_number(folder: Path) -> None:
    """A number of five thousand digits in JSON."""
    tar(folder / "s.tar", [*pair(0), ("0.json", b'{"hash": ' + b"9" * 5000 + b"}"), *pair(1)])


@case
def fields_are_a_list(folder: Path) -> None:
    """A JSON list where an object of fields is expected, beside a row as it should be."""
    images, fields = [picture(0), picture(1)], ["[1, 2]", "{}"]
    parquet(folder / "p.parquet", image=images, caption=CAPTIONS[:2], json=fields)


@case
def name_twice(folder: Path) -> None:
    """Two columns of one name."""
    arrays = [pa.array([picture(0)]), pa.array(["x y"]), pa.array(["y z"])]
    pq.write_table(pa.table(arrays, names=["image", "caption", "caption"]), folder / "p.parquet")


@case
def img2dataset_output(folder: Path) -> None:
    """A tar with the list and the statistics that img2dataset writes beside it."""
    keys = ["000000000", "000000001"]
    members = [
        member
        for number, key in enumerate(keys)
        for member in (*pair(number, key), (f"{key}.json", json.dumps({"caption": CAPTIONS[number]}).encode()))
    ]
    tar(folder / "00000.tar", members)
    parquet(folder / "00000.parquet", url=["a", "b"], caption=CAPTIONS[:2], key=keys, status=["success"] * 2)
    (folder / "00000_stats.json").write_text(json.dumps({"count": 2, "successes": 2}))
