"""`fuseray import-checkpoint FORMAT FILE OUT [key.path=value ...]`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.config.document import Document
from orchestrator.config.loading import find_checkpoint_format

if TYPE_CHECKING:
    from workloads.contract import ForeignCheckpoint

SHOWN_NAMES = 4
PARTS = {
    "used": "set the model's tensors",
    "resized": "of these, resized to the image size",
    "tied": "copies of others, left out",
    "aside": "kept beside the model (no place in it)",
    "left_over": "unknown to the layout, kept beside the model",
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
def command(
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
    write_import(checkpoint, target, format_name, str(file))
    click.echo(json.dumps(_as_json(checkpoint, target.uri)) if as_json else _table(checkpoint, target.uri))


def _values(overrides: tuple[str, ...]) -> dict[str, Any]:
    document = Document.parse("{}", "command line")
    for assignment in overrides:
        document.override(assignment)
    return document.plain()


def _as_json(checkpoint: ForeignCheckpoint, out: str) -> dict[str, Any]:
    return {
        "out": out,
        "workload": checkpoint.workload,
        "layout": checkpoint.metadata["layout"],
        "epochs": checkpoint.epochs,
        "optimizer": bool(checkpoint.moments),
        "config": checkpoint.config.model_dump(mode="json"),
        "report": asdict(checkpoint.report),
    }


def _table(checkpoint: ForeignCheckpoint, out: str) -> str:
    report = asdict(checkpoint.report)
    lines = [f"layout {checkpoint.metadata['layout']}, written to {out}"]
    for part, meaning in PARTS.items():
        if report[part] or part == "used":
            lines.append(f"{len(report[part]):6d}  {meaning}{_some(report[part]) if part != 'used' else ''}")
    moments = f"of {len({key.partition('/')[2] for key in checkpoint.moments})} parameters"
    lines.append(f"optimiser state: {moments if checkpoint.moments else 'none'}")
    if checkpoint.epochs is not None:
        lines.append(f"epochs trained: {checkpoint.epochs:g}")
    lines += [f"note: {note}" for note in report["notes"]]
    lines.append(f"All names are in {out}/import.json. Train from it with start.checkpoint={out}")
    return "\n".join(lines)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f": {', '.join(names[:SHOWN_NAMES])}{more}"
