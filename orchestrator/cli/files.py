"""`fuseray recipes|clusters [NAME [DEST]]`, and how verbs take a recipe, a sweep or a cluster: as a file or a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import click

from orchestrator.cli.console import json_option
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import ResolvedRecipe, load_recipe
from orchestrator.config.named_files import CLUSTERS, RECIPES, SUFFIX, SWEEPS, FileKind, find_file, shipped_file


def recipe_file(written: str) -> Path:
    """Return the file of a recipe, and say which one when a name was given. A click parameter `type`.

    Raises:
        click.BadParameter: there is none.
    """
    return _parameter(RECIPES, written)


def sweep_file(written: str) -> Path:
    """Return the file of a sweep, and say which one when a name was given.

    Raises:
        ConfigError: there is none.
    """
    return _file(SWEEPS, written)


def cluster_file(written: str) -> Path:
    """Return the file of a cluster, as `recipe_file` does."""
    return _parameter(CLUSTERS, written)


def load_and_say(recipe: Path, overrides: Sequence[str]) -> ResolvedRecipe:
    """Read a recipe, and say which files were taken for names in it.

    Raises:
        ConfigError: as `load_recipe`.
    """
    resolved = load_recipe(recipe, overrides)
    say(resolved.notes)
    return resolved


def say(notes: Iterable[str]) -> None:
    """Print which files were taken for names, on standard error."""
    for note in notes:
        click.echo(note, err=True)


def _parameter(kind: FileKind, written: str) -> Path:
    try:
        return _file(kind, written)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _file(kind: FileKind, written: str) -> Path:
    found = find_file(kind, written)
    say(filter(None, [found.note]))
    return found.path


@click.command()
@click.argument("name", required=False)
@click.argument("destination", metavar="[DEST]", required=False, type=click.Path(path_type=Path))
@json_option
def recipes_command(name: str | None, destination: Path | None, as_json: bool) -> None:
    """List the recipes and sweeps that come with Fuseray, or copy the one of NAME to DEST to change it.

    DEST is a .yaml file, or a folder. Without DEST the file is printed. Every verb that takes a recipe or a sweep takes
    its name; a file of that name in the current folder goes first.
    """
    _list_or_copy((RECIPES, SWEEPS), name, destination, as_json)


@click.command()
@click.argument("name", required=False)
@click.argument("destination", metavar="[DEST]", required=False, type=click.Path(path_type=Path))
@json_option
def clusters_command(name: str | None, destination: Path | None, as_json: bool) -> None:
    """List the cluster files that come with Fuseray, or copy the one of NAME to DEST to change it.

    DEST is a .yaml file, or a folder. Without DEST the file is printed. Every verb that takes a cluster takes its name;
    a file of that name in the current folder or its folder clusters/ goes first.
    """
    _list_or_copy((CLUSTERS,), name, destination, as_json)


def _list_or_copy(kinds: tuple[FileKind, ...], name: str | None, destination: Path | None, as_json: bool) -> None:
    if name is None:
        _print_names(kinds, as_json)
        return
    path = next((path for kind in kinds if (path := shipped_file(kind, name))), None)
    if path is None:
        known = ", ".join(shipped for kind in kinds for shipped in kind.files())
        raise ConfigError(f"no {kinds[0].name} that comes with Fuseray is called {name!r}; there are {known}.")
    if destination is None:
        click.echo(json.dumps({"file": str(path)}) if as_json else path.read_text(encoding="utf-8").rstrip())
        return
    copy = _copy(path, destination)
    click.echo(json.dumps({"file": str(copy)}) if as_json else f"{path} is copied to {copy}")


def _print_names(kinds: tuple[FileKind, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({kind.name: {name: str(path) for name, path in kind.files().items()} for kind in kinds}))
        return
    width = max(len(name) for kind in kinds for name in kind.files())
    for kind in kinds:
        click.echo(f"{kind.name}s")
        for name, path in kind.files().items():
            click.echo(f"  {name:{width}}  {_first_sentence(path)}")


def _first_sentence(path: Path) -> str:
    """Return the beginning of the comment that a file starts with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("# "), lines))
    return re.split(r"(?<! al)[.;](?:\s|$)", comment)[0].rstrip(":")


def _copy(path: Path, destination: Path) -> Path:
    """Copy a file to another one, or into a folder.

    Raises:
        ConfigError: the other one is there already, or cannot be written.
    """
    target = destination if destination.suffix in (SUFFIX, ".yml") else destination / path.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(path.read_bytes())
    except FileExistsError as error:
        raise ConfigError(f"{error.filename}: is there already; name another DEST.") from error
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror}); name another DEST.") from error
    return target
