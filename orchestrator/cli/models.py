"""`fuseray export SOURCE OUT` and `fuseray import-checkpoint FORMAT FILE OUT`."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import find_checkpoint_format

if TYPE_CHECKING:
    from orchestrator.train.convert import ExportSource
    from workloads.contract import ForeignCheckpoint


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
@click.option("--flat", is_flag=True, help="The model's tensors alone, not nested together with optimiser and epoch.")
@click.option("--storage", default="runs", show_default=True, help="Where runs are, when SOURCE is a name.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def export_command(
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
        raise ConfigError("--flat: belongs to --format albef.")

    from orchestrator.train.convert import find_source

    exported = find_source(source, storage, endpoint, step)
    _export(exported, out, format_name, flat)
    if as_json:
        click.echo(json.dumps({"checkpoint": exported.folder.uri, "format": format_name, "out": str(out)}))
        return
    click.echo(f"{exported.folder.uri} is written to {out}")
    if format_name == OWN:
        click.echo(HOW_TO_LOAD.format(out=str(out)))


def _export(source: ExportSource, out: Path, format_name: str, flat: bool) -> None:
    from orchestrator.train.convert import export_folder, export_format

    if format_name == OWN:
        export_folder(source, out)
    else:
        export_format(source, out, find_checkpoint_format(format_name), flat)


SHOWN_NAMES = 4
PARTS = {
    "used": "set the model's tensors",
    "resized": "of these, resized to the image size",
    "tied": "copies of others, left out",
    "aside": "kept with the model (not a part of it)",
    "left_over": "unknown to the layout, kept with the model",
    "copied": "the file lacks: copied from the student",
    "missing": "the file lacks: as in a new model",
}


@click.command()
@click.argument("format_name", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out")
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, with all names.")
def import_command(
    format_name: str, file: Path, out: str, overrides: tuple[str, ...], endpoint: str | None, as_json: bool
) -> None:
    """Turn FILE, a checkpoint of another project, into a checkpoint folder OUT to train from.

    FORMAT is albef: a .pth file of the official code, of pre-training or fine-tuned, nested or flat. KEY.PATH=VALUE
    sets recipe keys of the model, for example model.image_size=384, which resizes the position embeddings. A recipe
    starts from OUT with start.checkpoint=OUT.
    """
    values = _values(overrides)
    format_ = find_checkpoint_format(format_name)

    from orchestrator.storage.location import locate
    from orchestrator.train.convert import check_free, write_import

    target = locate(out, endpoint)
    check_free(target)
    checkpoint = format_.read(file, values)
    write_import(checkpoint, target, format_name, str(file.absolute()))
    click.echo(json.dumps(_as_json(checkpoint, target.uri)) if as_json else _table(checkpoint, target.uri))


def _values(overrides: tuple[str, ...]) -> dict[str, Any]:
    document = Document.parse("{}", "command line")
    for assignment in overrides:
        document.override(assignment)
    return document.to_dict()


def _as_json(checkpoint: ForeignCheckpoint, out: str) -> dict[str, Any]:
    return {
        "out": out,
        "workload": checkpoint.workload,
        "layout": checkpoint.metadata["layout"],
        "epochs": checkpoint.epochs,
        "optimizer": bool(checkpoint.optimizer_state),
        "config": checkpoint.config.model_dump(mode="json"),
        "report": asdict(checkpoint.report),
    }


def _table(checkpoint: ForeignCheckpoint, out: str) -> str:
    report = asdict(checkpoint.report)
    lines = [f"layout {checkpoint.metadata['layout']}, written to {out}"]
    for part, meaning in PARTS.items():
        if report[part] or part == "used":
            lines.append(f"{len(report[part]):6d}  {meaning}{_some(report[part]) if part != 'used' else ''}")
    optimizer_state = f"of {len({key.partition('/')[2] for key in checkpoint.optimizer_state})} parameters"
    lines.append(f"optimiser state: {optimizer_state if checkpoint.optimizer_state else 'none'}")
    if checkpoint.epochs is not None:
        lines.append(f"epochs trained: {checkpoint.epochs:g}")
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"All names are in {out}/import.json. Train from it with {shlex.quote(f'start.checkpoint={out}')}")
    return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f": {', '.join(names[:SHOWN_NAMES])}{more}"
