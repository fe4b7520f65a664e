"""What is in a folder of shards: which files are taken, and why others that look like shards are not."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pyarrow import fs

from orchestrator.config.commands import command_line
from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.dataset.index import DataSetError, ShardFormat, shard_format_of
from orchestrator.stream.dataset.shard_folder import ShardFolder, in_data_set, is_bookkeeping, select, why_missing
from orchestrator.stream.dataset.webdataset import is_of_macos

COMPRESSED = re.compile(r"\.(t(ar\.)?(gz|bz2?|xz|zst|lz4)|zip)$", re.IGNORECASE)
LIKE_A_SHARD = re.compile(r"\.(tar|parquet|pq|parq|arrow|feather)(\.|$)", re.IGNORECASE)
SPLIT = re.compile(
    r"(?:^|(?<=[-._ ]))(train|training|test|testing|valid|validation|val|dev|eval|evaluation)(?=[-._ ]|\d|$)",
    re.IGNORECASE,
)
"""The names of splits that Hugging Face's `datasets` knows, as a part of a file's name."""

FOLDERS_LISTED = 20
NAMES_SHOWN = 3
LIST_REASON = "img2dataset's list of what is in the tar of that name; the tars are the shards"
STATISTICS_SUFFIX = "_stats.json"
"""img2dataset writes 00000.tar, with 00000.parquet and 00000_stats.json, which are about it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or sub-folder that looks like shards and is not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Survey:
    """The files of a data set.

    Args:
        format: of the shards.
        shards: their names, in order.
        files: every file of the folder, by name.
        left_out: what looks like shards and is not taken.
    """

    format: ShardFormat
    shards: Sequence[str]
    files: Mapping[str, fs.FileInfo]
    left_out: tuple[LeftOut, ...]


def survey(folder: Location) -> Survey:
    """Find the shards of a data set.

    Raises:
        DataSetError: there is no such folder, or no shards in it, or shards of two kinds or of several splits.
        StorageError: the store is failing.
    """
    listing = _listed(folder)
    others = tuple(_left_out(folder, listing))
    formats = {shard_format for name in listing.shards if (shard_format := shard_format_of(name))}
    if len(formats) != 1:
        raise DataSetError(f"{folder.uri}: {_why_not(folder, formats, listing.files)}{_text_of(others)}")
    if not isinstance(folder, ShardFolder):
        _check_splits(folder, listing.shards)
    return Survey(formats.pop(), listing.shards, listing.files, others)


def left_out(folder: Location) -> tuple[LeftOut, ...]:
    """Return what looks like shards in a data set's folder and is not taken.

    Raises:
        DataSetError: there is no such folder.
        StorageError: the store is failing.
    """
    return tuple(_left_out(folder, _listed(folder)))


def choose_split(folder: Location, split: str) -> Location:
    """Return the data set of the shards of one split of a folder.

    Args:
        folder: the folder.
        split: as it stands in the names of the shards, such as "train".

    Raises:
        DataSetError: no shard has it in its name.
        StorageError: the store is failing.
    """
    patterns = split_patterns(_listed(folder).shards)
    if split not in patterns:
        found = f"its splits: {', '.join(patterns)}" if patterns else "the names of its shards tell of none"
        raise DataSetError(f"{folder.uri}: has no split {split!r}; {found}.")
    return select(folder, patterns[split])


def split_patterns(shards: Iterable[str]) -> dict[str, str]:
    """Return the pattern of the file names of each split that the names of shards tell of."""
    beginnings: dict[str, set[str]] = defaultdict(set)
    suffixes: dict[str, set[str]] = defaultdict(set)
    for name in shards:
        if match := SPLIT.search(name):
            end = match.end() + (name[match.end()] in "-_ ")
            beginnings[match.group()].add(glob.escape(name[:end]))
            suffixes[match.group()].add(PurePath(name).suffix)
    return {
        split: f"{_only(beginnings[split], f'*{split}')}*{_only(suffixes[split], '')}" for split in list(beginnings)
    }


def _only(values: set[str], otherwise: str) -> str:
    return min(values) if len(values) == 1 else otherwise


def describe(items: Sequence[LeftOut]) -> Iterator[str]:
    """Yield a text for each reason, with the names of the first files."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for item in items:
        by_reason[item.reason].append(item.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        yield f"{', '.join(names[:NAMES_SHOWN])}{more} ({reason})"


@dataclass(frozen=True, eq=False)
class _Listing:
    """A folder's files by name, its sub-folders, the shards of a data set in it, and img2dataset's lists of them."""

    files: Mapping[str, fs.FileInfo]
    folders: Sequence[str]
    shards: Sequence[str]
    lists: Sequence[str]


def _listed(folder: Location) -> _Listing:
    if missing := why_missing(folder):
        raise DataSetError(missing)
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    infos = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    infos = sorted(infos, key=lambda info: info.base_name)
    files = {info.base_name: info for info in infos if info.type == fs.FileType.File}
    folders = [info.base_name for info in infos if info.type == fs.FileType.Directory]
    present = [name for name in files if _is_shard(folder, name)]
    lists = _lists(present, files)
    return _Listing(files, folders, [name for name in present if name not in set(lists)], lists)


def _is_shard(folder: Location, name: str) -> bool:
    return in_data_set(folder, name) and shard_format_of(name) is not None


def _left_out(folder: Location, listing: _Listing) -> Iterator[LeftOut]:
    yield from _left_out_files(folder, listing.files)
    yield from _left_out_folders(folder, listing.folders)
    yield from (LeftOut(name, LIST_REASON) for name in listing.lists)


def _left_out_files(folder: Location, names: Iterable[str]) -> Iterator[LeftOut]:
    for name in names:
        if is_bookkeeping(name) or is_of_macos(name) or _is_shard(folder, name):
            continue
        if COMPRESSED.search(name):
            yield LeftOut(name, "compressed, while samples are read from anywhere in a shard; unpack it to .tar")
        elif shard_format_of(name):
            yield LeftOut(name, "not in the pattern")
        elif LIKE_A_SHARD.search(name):
            hidden = "a hidden file" if name.startswith(".") else "its name does not end in .tar or .parquet"
            yield LeftOut(name, hidden)


def _left_out_folders(folder: Location, names: Sequence[str]) -> Iterator[LeftOut]:
    visible = [name for name in names if not name.startswith((".", "__"))]
    for name in visible[:FOLDERS_LISTED]:
        shards = [file for file in (folder / name).sizes() if shard_format_of(file) or COMPRESSED.search(file)]
        if shards:
            yield LeftOut(f"{name}/", f"a sub-folder, with {shards[0]}; give its own address to use it")
    if len(visible) > FOLDERS_LISTED:
        yield LeftOut(f"{len(visible) - FOLDERS_LISTED} more sub-folders", "not looked into")


def _lists(shards: Sequence[str], files: Mapping[str, object]) -> list[str]:
    """Return the Parquet files that img2dataset writes for its tars."""
    tars = {PurePath(name).stem for name in shards if shard_format_of(name) == "webdataset"}
    return [
        name
        for name in shards
        if shard_format_of(name) == "parquet"
        and (stem := PurePath(name).stem) in tars
        and f"{stem}{STATISTICS_SUFFIX}" in files
    ]


def _why_not(folder: Location, formats: set[ShardFormat], files: Iterable[str]) -> str:
    one_kind = "a data set is a folder of shards of one kind."
    if formats:
        return f"has both .tar and .parquet shards; {one_kind} Choose with FOLDER/*.tar or FOLDER/*.parquet."
    shards = [name for name in files if shard_format_of(name)]
    if isinstance(folder, ShardFolder) and shards:
        return f"no shard's name matches the pattern; the shards: {', '.join(shards[:NAMES_SHOWN])} ..."
    return f"has no .tar or .parquet shards; {one_kind}"


def _text_of(items: Sequence[LeftOut]) -> str:
    return f" Not taken: {'; '.join(describe(items))}." if items else ""


def _check_splits(folder: Location, shards: Sequence[str]) -> None:
    patterns = split_patterns(shards)
    if len(patterns) < 2:
        return
    split = next((split for split in patterns if split.lower().startswith("train")), next(iter(patterns)))
    command = command_line("shards", "index", folder.uri, split=split, endpoint=folder.endpoint)
    raise DataSetError(
        f"{folder.uri}: has shards of the splits {', '.join(patterns)}, which are not one data set; choose with "
        f"`{command}`, or with a pattern of names, here and in the recipe: "
        f"data.train: {folder.uri}/{patterns[split]}; all of them are {folder.uri}/*{PurePath(shards[0]).suffix}."
    )
