"""`fuseray shards verify URI` and `fuseray shards inspect URI`: find bad samples, and show samples."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import endpoint_option, json_option, printable
from orchestrator.config.commands import command_line
from orchestrator.config.errors import FuserayError

if TYPE_CHECKING:
    from orchestrator.report.images import Tile
    from orchestrator.storage.location import Location
    from orchestrator.stream.dataset.index import Index
    from orchestrator.stream.dataset.samples import LocatedSample
    from orchestrator.stream.shards.verify import Verification


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a verification.

    Args:
        data_set: its URI.
        complete: whether every shard was read.
        shards: in the index.
        samples: in the index.
        read: shards that were read this time.
        remembered: shards that were read before and have not changed.
        checks: limits and depth of the checks.
        findings: number of findings by kind.
        report: path of the list of findings.
        left_out: what looks like shards in the folder and is not taken, with the reason.
    """

    data_set: str
    complete: bool
    shards: int
    samples: int
    read: int
    remembered: int
    checks: Mapping[str, Any]
    findings: Mapping[str, int]
    report: str
    left_out: tuple[str, ...] = ()


@click.command()
@click.argument("uri")
@click.option("--decode/--no-decode", default=True, help="Decode every image, or read its header alone.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Default: verify-FOLDER.jsonl.")
@click.option("--max-pixels", type=click.IntRange(min=1), default=50_000_000, show_default=True, help="Per image.")
@click.option("--max-side", type=click.IntRange(min=1), default=16_384, show_default=True, help="In pixels.")
@click.option("--max-caption-words", type=click.IntRange(min=1), default=256, show_default=True, help="Per caption.")
@click.option("--again", is_flag=True, help="Also read shards that were read before and have not changed.")
@endpoint_option
@json_option
def verify_command(
    uri: str, endpoint: str | None, report: Path | None, workers: int, again: bool, as_json: bool, **checks: Any
) -> None:
    """Find what is wrong with the shards in the folder URI and with the samples in them.

    Finds shards that are missing, truncated, grown or changed since they were indexed, missing sidecars, duplicate
    keys, images that are empty, too large or cannot be decoded, and captions that are missing, empty or too long.
    Exit code 1 when there is anything.

    The report has a JSON object per line: shard, key, kind and detail. REPORT.summary.json has the counts, and
    REPORT.state remembers the shards that are done: after an interruption, or when some shards were fixed, run
    it again and only the others are read. Shards that are not on this machine are copied into TMPDIR one by one.
    """
    from orchestrator.stream.dataset.index import read_index
    from orchestrator.stream.dataset.shard_folder import locate_shards
    from orchestrator.stream.shards.checks import Checks

    folder = locate_shards(uri, endpoint)
    index = read_index(folder)
    target = report or Path(f"verify-{_slug(folder.uri)}.jsonl")
    summary = _verify(folder, index, Checks(**checks), target, workers, again, as_json)
    click.echo(json.dumps(asdict(summary)) if as_json else _summary_text(summary))
    if summary.findings:
        sys.exit(1)


def _verify(
    folder: Location, index: Index, checks: Any, report: Path, workers: int, again: bool, quiet: bool
) -> Summary:
    from orchestrator.cli.console import progress_bar
    from orchestrator.stream.shards.executors import ProcessMapper
    from orchestrator.stream.shards.survey import describe, left_out
    from orchestrator.stream.shards.verify import Verification, VerifyRecord

    with VerifyRecord(report, folder.uri, checks.as_json(), again) as record:
        verification = Verification(folder, index, checks, record)
        before = verification.finished()
        summary = Summary(
            data_set=folder.uri,
            complete=False,
            shards=len(index.shards),
            samples=index.total,
            read=0,
            remembered=before,
            checks=checks.as_json(),
            findings={},
            report=str(report),
            left_out=tuple(describe(left_out(folder))),
        )
        try:
            with progress_bar("shards", verification.present, before, quiet) as advance:
                verification.run(ProcessMapper(workers), lambda _: advance())
            return _write(verification, summary, complete=True)
        except (KeyboardInterrupt, FuserayError):
            partial = _write(verification, summary, complete=False)
            click.echo(f"{_summary_text(partial)}\nThe same command continues from here.", err=True)
            raise


def _write(verification: Verification, summary: Summary, complete: bool) -> Summary:
    from orchestrator.stream.shards.verify import write_report

    values = {**asdict(summary), "complete": complete, "read": verification.finished() - summary.remembered}
    keys = verification.duplicate_keys() if complete else ()
    counts = write_report(Path(summary.report), chain(verification.findings(), keys), values)
    return Summary(**{**values, "findings": counts})


def _slug(uri: str) -> str:
    """Return the last two parts of a URI as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(uri.split("/")[-2:])).strip("-")


def _summary_text(summary: Summary) -> str:
    lines = [f"{summary.data_set}: {summary.samples} samples in {summary.shards} shards"]
    if not summary.complete:
        lines.append(f"not complete: {summary.read + summary.remembered} shards are done")
    elif summary.remembered:
        lines.append(f"{summary.remembered} shards were read before and have not changed; --again reads them too")
    width = max((len(str(count)) for count in summary.findings.values()), default=1)
    lines += [f"  {count:>{width}}  {kind}" for kind, count in summary.findings.items()]
    lines += [f"not taken: {printable(item)}" for item in summary.left_out]
    fine = "Nothing is wrong." if summary.complete else "Nothing is wrong so far."
    lines.append(f"The report is {summary.report}" if summary.findings else fine)
    return "\n".join(lines)


TEXT_LENGTH = 500
"""Letters of a text that are printed."""


@dataclass(frozen=True, slots=True)
class SampleView:
    """A sample as it is printed.

    Args:
        key: its key.
        shard: the shard's name.
        row: where it is in the shard.
        format: of the image; empty when it is unknown.
        width: of the image, in pixels.
        height: of the image, in pixels.
        bytes: of the image file.
        captions: its captions.
        fields: other stored fields.
        fault: why training would skip it; empty when it would not.
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
@endpoint_option
@json_option
def inspect_command(
    uri: str, samples: int, seed: int, keys: tuple[str, ...], out: Path | None, endpoint: str | None, as_json: bool
) -> None:
    """Show samples of the data set in the folder URI: image, captions and fields, spread evenly over all shards.

    The contact sheet is one PNG with a grid of the images and their first captions.
    """
    from orchestrator.report.images import picture_of, tile_of
    from orchestrator.stream.dataset.index import read_index
    from orchestrator.stream.dataset.samples import find_keys, read_numbered, stratified_sample
    from orchestrator.stream.dataset.shard_folder import locate_shards

    folder = locate_shards(uri, endpoint)
    index = read_index(folder)
    numbers = find_keys(folder, index, keys) if keys else stratified_sample(index.total, samples, seed)
    views, tiles = [], []
    for sample in read_numbered(folder, index, numbers):
        picture = picture_of(sample.content)
        views.append(_view(sample, picture.fault))
        tiles.append(tile_of(sample.content, picture))
    if out is not None:
        _write_sheet(out, tiles)
    _print_samples(views, folder.uri, endpoint, out, as_json)


def _view(sample: LocatedSample, fault: str) -> SampleView:
    from orchestrator.stream.dataset.images import read_header
    from orchestrator.stream.dataset.sidecar import Unreadable
    from workloads.contract import BadSample

    content = sample.content
    if isinstance(content, Unreadable):
        return SampleView(content.key, sample.shard, sample.row, fault=fault)
    known: dict[str, Any] = {"bytes": len(content.image), "captions": content.captions, "fields": dict(content.fields)}
    with suppress(BadSample):
        known |= asdict(read_header(content.image))
    return SampleView(content.key, sample.shard, sample.row, fault=fault, **known)


def _write_sheet(out: Path, tiles: Sequence[Tile]) -> None:
    from orchestrator.report.images import contact_sheet
    from orchestrator.storage.location import locate

    locate(str(out)).write(contact_sheet(tiles))


def _print_samples(
    views: Sequence[SampleView], uri: str, endpoint: str | None, out: Path | None, as_json: bool
) -> None:
    if as_json:
        sheet = {"contact_sheet": str(out)} if out else {}
        samples = [asdict(view) for view in views]
        unusable = sum(bool(view.fault) for view in views)
        click.echo(json.dumps({"data_set": uri, "samples": samples, "unusable": unusable, **sheet}, default=str))
        return
    for view in views:
        click.echo("\n".join(_lines(view)) + "\n")
    if unusable := sum(bool(view.fault) for view in views):
        command = command_line("shards", "verify", uri, endpoint=endpoint)
        click.echo(f"{unusable} of these {len(views)} samples cannot be used; `{command}` lists all.")
    if out is not None:
        click.echo(f"The contact sheet is {out}.")


def _lines(view: SampleView) -> list[str]:
    image = f"{view.format} {view.width}x{view.height}, " if view.format else ""
    lines = [f"{printable(view.key)}  ({view.shard}, row {view.row})  {image}{view.bytes:,} bytes"]
    lines += [f"  fault: {_shortened(view.fault)}"] if view.fault else []
    lines += [f"  {_shortened(caption)}" for caption in view.captions]
    if view.fields:
        lines.append(f"  {_shortened(json.dumps(view.fields, ensure_ascii=False, default=str))}")
    return lines


def _shortened(text: str) -> str:
    return printable(text[:TEXT_LENGTH]) + ("…" if len(text) > TEXT_LENGTH else "")
