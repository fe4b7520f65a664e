"""`fuseray shards inspect URI`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.printable import printable

if TYPE_CHECKING:
    from orchestrator.report.images import Tile
    from orchestrator.stream.dataset.samples import Chosen

LONGEST = 500
"""Letters of a text that are printed."""


@dataclass(frozen=True, slots=True)
class Look:
    """A sample as it is shown.

    Args:
        key: its key.
        shard: the shard's name.
        row: where it is in the shard.
        format: of the image; empty when that cannot be told.
        width: of the image, in pixels.
        height: of the image, in pixels.
        bytes: of the image file.
        captions: its captions.
        fields: what else is stored beside them.
        fault: why training would skip it; empty when it is fine.
    """

    key: str
    shard: str
    row: int
    format: str = ""
    width: int = 0
    height: int = 0
    bytes: int = 0
    captions: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


@click.command()
@click.argument("uri")
@click.option("--samples", type=click.IntRange(min=1), default=24, show_default=True, help="How many to show.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed chooses other samples.")
@click.option("--key", "keys", multiple=True, help="Show the sample with this key; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a contact sheet (.png) here.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(
    uri: str, samples: int, seed: int, keys: tuple[str, ...], out: Path | None, endpoint: str | None, as_json: bool
) -> None:
    """Show samples of the data set in the folder URI: image, captions and fields, spread evenly over all shards.

    The contact sheet is one PNG with a grid of the images and their first captions.
    """
    from orchestrator.report.images import picture_of, tile_of
    from orchestrator.storage.location import locate
    from orchestrator.stream.dataset.index import read_index
    from orchestrator.stream.dataset.samples import find_keys, read_chosen, spread

    folder = locate(uri, endpoint)
    index = read_index(folder)
    numbers = find_keys(folder, index, keys) if keys else spread(index.total, samples, seed)
    looks, tiles = [], []
    for chosen in read_chosen(folder, index, numbers):
        picture = picture_of(chosen.content)
        looks.append(_look(chosen, picture.fault))
        tiles.append(tile_of(chosen.content, picture))
    if out is not None:
        _write(out, tiles)
    _show(looks, folder.uri, out, as_json)


def _look(chosen: Chosen, fault: str) -> Look:
    from orchestrator.stream.dataset.images import read_header
    from orchestrator.stream.dataset.sidecar import Unreadable
    from workloads.contract import BadSample

    content = chosen.content
    if isinstance(content, Unreadable):
        return Look(content.key, chosen.shard, chosen.row, fault=fault)
    known: dict[str, Any] = {"bytes": len(content.image), "captions": content.captions, "fields": dict(content.fields)}
    with suppress(BadSample):
        known |= asdict(read_header(content.image))
    return Look(content.key, chosen.shard, chosen.row, fault=fault, **known)


def _write(out: Path, tiles: Sequence[Tile]) -> None:
    from orchestrator.report.images import contact_sheet
    from orchestrator.storage.location import locate

    locate(str(out)).write(contact_sheet(tiles))


def _show(looks: Sequence[Look], uri: str, out: Path | None, as_json: bool) -> None:
    if as_json:
        sheet = {"contact_sheet": str(out)} if out else {}
        click.echo(json.dumps({"data_set": uri, "samples": [asdict(look) for look in looks], **sheet}, default=str))
        return
    for look in looks:
        click.echo("\n".join(_lines(look)) + "\n")
    if out is not None:
        click.echo(f"The contact sheet is {out}.")


def _lines(look: Look) -> list[str]:
    image = f"{look.format} {look.width}x{look.height}, " if look.format else ""
    lines = [f"{printable(look.key)}  ({look.shard}, row {look.row})  {image}{look.bytes:,} bytes"]
    lines += [f"  fault: {_short(look.fault)}"] if look.fault else []
    lines += [f"  {_short(caption)}" for caption in look.captions]
    if look.fields:
        lines.append(f"  {_short(json.dumps(look.fields, ensure_ascii=False, default=str))}")
    return lines


def _short(text: str) -> str:
    return printable(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")
