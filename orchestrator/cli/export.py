"""`fuseray export SOURCE OUT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.config.errors import SpecError
from orchestrator.config.loading import find_checkpoint_format

if TYPE_CHECKING:
    from orchestrator.train.convert import Source

OWN = "safetensors"

HOW_TO_LOAD = """\
Load it without Ray:
  from workloads.interop import load_exported
  model = load_exported({out!r})"""


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_name", default=OWN, show_default=True, help="safetensors, or a checkpoint format such as albef."
)
@click.option("--step", type=click.IntRange(min=0), help="The run's checkpoint to export; default: the newest.")
@click.option("--flat", is_flag=True, help="The model's tensors alone, not nested beside optimiser and epoch.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when SOURCE is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    source: str,
    out: Path,
    format_name: str,
    step: int | None,
    flat: bool,
    storage: str,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Write the model of SOURCE to OUT.

    SOURCE is a run's name below --storage, the path or URI of its folder, or a folder that import-checkpoint made.
    safetensors writes a folder that loads without Ray; albef writes a .pth file for the official code, an imported
    checkpoint in the layout it came in, a run in that of pre-training.
    """
    if flat and format_name == OWN:
        raise SpecError("--flat: belongs to --format albef.")

    from orchestrator.train.convert import find_source

    found = find_source(source, storage, endpoint, step)
    _export(found, out, format_name, flat)
    if as_json:
        click.echo(json.dumps({"checkpoint": found.place.uri, "format": format_name, "out": str(out)}))
        return
    click.echo(f"{found.place.uri} is written to {out}")
    if format_name == OWN:
        click.echo(HOW_TO_LOAD.format(out=str(out)))


def _export(source: Source, out: Path, format_name: str, flat: bool) -> None:
    from orchestrator.train.convert import export_folder, export_format

    if format_name == OWN:
        export_folder(source, out)
    else:
        export_format(source, out, find_checkpoint_format(format_name), flat)
