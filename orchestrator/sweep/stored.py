"""A sweep's YAML and recipe in its folder, so that it can be continued and reported without the files it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from orchestrator.config.document import Document
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.sweep import ResolvedSweep, Sweep, load_sweep
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RECIPE_FILE
from orchestrator.sweep.folder import SweepFolder


def store_sweep(folder: SweepFolder, sweep: ResolvedSweep) -> None:
    """Write a sweep and its recipe into its folder; what the recipe extends is resolved."""
    _write(folder.recipe, sweep.base.plain())
    _write(folder.spec, sweep.sweep.model_dump(mode="json") | {"recipe": RECIPE_FILE})


def stored_sweep(folder: SweepFolder, overrides: Sequence[str] = ()) -> ResolvedSweep:
    """Return the sweep that a folder holds, checked anew.

    Args:
        folder: the sweep's folder.
        overrides: `key.path=value` over the sweep's own keys.

    Raises:
        SpecError: it cannot be read.
        RecipeError: this version of Fuseray refuses it.
    """
    with TemporaryDirectory() as here:
        for place in (folder.recipe, folder.spec):
            Path(here, place.name).write_bytes(place.read())
        return load_sweep(Path(here, folder.spec.name), overrides)


def plain_yaml(values: object) -> str:
    """Return plain values as YAML."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def stored_section(folder: SweepFolder) -> Sweep:
    """Return the sections of the sweep that a folder holds; its recipe is not looked at.

    Raises:
        SpecError: they cannot be read.
        RecipeError: this version of Fuseray refuses them.
    """
    document = Document.parse(folder.spec.read().decode(), folder.spec.uri)
    section = validate(Sweep, document.plain(), document)
    if isinstance(section, list):
        raise RecipeError(section)
    return section


def _write(place: Location, values: object) -> None:
    place.write(plain_yaml(values).encode())
