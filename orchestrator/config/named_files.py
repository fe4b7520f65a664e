"""Recipes, sweeps and cluster files by name: the user's own files first, then those that come with Fuseray.

A workload's recipes are the folder `recipes` of the package that registers it, its sweeps the folder `sweeps` in there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from orchestrator.config.errors import ConfigError

SUFFIX = ".yaml"


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file that has a name.

    Args:
        name: such as "recipe".
        listing: the command that lists those that come with Fuseray.
        own_folders: folders of the user's own files, relative to where the name is used.
        files: returns the files that come with Fuseray, by name.
    """

    name: str
    listing: str
    own_folders: tuple[str, ...]
    files: Callable[[], Mapping[str, Path]]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found by what a user wrote.

    Args:
        path: the file.
        note: which file was taken; empty when that is what the user wrote.
    """

    path: Path
    note: str


def find_file(kind: FileKind, written: str, folder: Path = Path()) -> FoundFile:
    """Return the file that a user means.

    Args:
        kind: what is looked for.
        written: a path, with or without .yaml, or the name of a file that comes with Fuseray.
        folder: what relative paths are relative to.

    Raises:
        ConfigError: there is none; the message has the closest name.
    """
    shipped = _by_any_name(kind.files())
    counterpart = shipped.get(written.removesuffix(SUFFIX))
    own = next(_own_files(kind, written, folder), None)
    path = own or counterpart
    if path is None:
        raise ConfigError(
            f"there is neither a file {folder / written} nor a {kind.name} of that name; {_hint(kind, written)}"
        )
    if own is None:
        return FoundFile(path, f"{kind.name} {written}: {path}, which comes with Fuseray")
    if counterpart is not None and not path.samefile(counterpart):
        return FoundFile(path, f"{kind.name} {written}: {path}, a file of your own; another comes with Fuseray")
    return FoundFile(path, "" if path == folder / written else f"{kind.name} {written}: {path}")


def shipped_file(kind: FileKind, name: str) -> Path | None:
    """Return the file that comes with Fuseray under a name, None when there is no such file."""
    return _by_any_name(kind.files()).get(name.removesuffix(SUFFIX))


def _own_files(kind: FileKind, written: str, folder: Path) -> Iterator[Path]:
    exact = folder / written
    if exact.exists() and not exact.is_dir():
        yield exact
    for own in kind.own_folders:
        for name in (written, f"{written}{SUFFIX}"):
            if (path := folder / own / name).is_file():
                yield path


def _hint(kind: FileKind, written: str) -> str:
    own = (Path(folder).glob(f"{'**/' if folder else ''}*{SUFFIX}") for folder in kind.own_folders)
    names = {*_by_any_name(kind.files()), *(path.stem for paths in own for path in paths)}
    near = get_close_matches(written.removesuffix(SUFFIX), sorted(names), n=1)
    return f"did you mean {near[0]}?" if near else f"`{kind.listing}` lists those that come with Fuseray."


def _by_any_name(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return files by name, and also by the last part of their name where no other file has it."""
    last_parts = Counter(path.stem for path in files.values())
    return {path.stem: path for path in files.values() if last_parts[path.stem] == 1} | dict(files)


def _files_in(folders: Iterable[Path], without: str = "") -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob(f"*{SUFFIX}"), key=lambda path: path.with_suffix("")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if not without or not name.startswith(f"{without}/"):
                files.setdefault(name, path)
    return files


def _recipe_folders() -> Iterator[Path]:
    packages = dict.fromkeys(point.module.partition(".")[0] for point in entry_points(group="fuseray.workloads"))
    for package in packages:
        spec = find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location) / "recipes"


def _cluster_folders() -> Iterator[Path]:
    package = Path(__file__).parents[1]
    installed, checkout = package / "clusters", package.parent / "clusters"
    yield installed if installed.is_dir() else checkout


SWEEP_FOLDER = "sweeps"

RECIPES = FileKind("recipe", "fuseray recipes", ("",), lambda: _files_in(_recipe_folders(), without=SWEEP_FOLDER))
SWEEPS = FileKind(
    "sweep", "fuseray recipes", ("",), lambda: _files_in(folder / SWEEP_FOLDER for folder in _recipe_folders())
)
CLUSTERS = FileKind("cluster", "fuseray clusters", ("", "clusters"), lambda: _files_in(_cluster_folders()))
