"""`fuseray shards stats URI`: captions, images and shuffle quality of a data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import endpoint_option, json_option, printable

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.report.data_report import DataStatistics
    from orchestrator.storage.location import Location
    from orchestrator.stream.dataset.index import Index
    from orchestrator.stream.shards.statistics import Shuffle, ShuffleParams

PAGE = "stats.html"
MAX_SHARDS = 2000
"""Shards whose sidecars are read, at most."""


@click.command()
@click.argument("uri")
@click.option("--chunk", type=click.IntRange(min=1), multiple=True, help="stream.chunk of a recipe; may be repeated.")
@click.option("--window", type=click.IntRange(min=1), multiple=True, help="stream.window; may be repeated.")
@click.option("--micro-batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="As in the recipe.")
@click.option("--seed", type=int, default=42, show_default=True, help="The recipe's seed.")
@click.option("--sample", type=click.IntRange(min=1), default=1000, show_default=True, help="Images to measure.")
@click.option("--out", type=click.Path(path_type=Path), default=PAGE, show_default=True, help="Page, or its folder.")
@endpoint_option
@json_option
def command(uri: str, endpoint: str | None, sample: int, out: Path, as_json: bool, **knobs: Any) -> None:
    """Print statistics of the data set in the folder URI, and how well its order shuffles.

    Prints statistics of captions, images and shards, and for every combination of --chunk and --window how far apart
    neighbours in storage end up in an epoch and what reading in that order costs; by default for the recipe's
    defaults. Writes a page with charts.
    """
    from orchestrator.report.data_report import render_statistics
    from orchestrator.storage.location import locate
    from orchestrator.stream.dataset.index import read_index
    from orchestrator.stream.dataset.shard_folder import locate_shards

    folder = locate_shards(uri, endpoint)
    index = read_index(folder)
    statistics = _gather(folder, index, sample, as_json, **knobs)
    page = locate(str(out / PAGE if out.suffix != ".html" else out))
    page.write(render_statistics(statistics).encode())
    if as_json:
        click.echo(json.dumps(_values(statistics) | {"page": page.uri}))
    else:
        _print_statistics(statistics, page.uri)


def _gather(
    folder: Location,
    index: Index,
    sample: int,
    quiet: bool,
    chunk: tuple[int, ...],
    window: tuple[int, ...],
    micro_batch_size: int,
    seed: int,
) -> DataStatistics:
    from orchestrator.cli.console import progress_bar
    from orchestrator.report.data_report import DataStatistics
    from orchestrator.stream.shards.statistics import count_captions, measure_images, measure_shuffle

    with progress_bar("sidecars", min(MAX_SHARDS, len(index.shards)), quiet=quiet) as advance:
        captions = count_captions(folder, index, MAX_SHARDS, advance)
    with progress_bar("images", min(sample, index.total), quiet=quiet) as advance:
        images = measure_images(folder, index, sample, advance)
    pairs = _knobs(folder, chunk, window, micro_batch_size)
    shuffles = []
    with progress_bar("orders", len(pairs), quiet=quiet) as advance:
        for knobs in pairs:
            shuffles.append(measure_shuffle(index, knobs, seed))
            advance()
    return DataStatistics(folder.uri, index, captions, images, shuffles)


def _knobs(
    folder: Location, chunks: tuple[int, ...], windows: tuple[int, ...], micro_batch_size: int
) -> list[ShuffleParams]:
    from orchestrator.config.recipe import StreamSection
    from orchestrator.storage.range_reader import LOCAL_GAP_BYTES, OBJECT_GAP_BYTES
    from orchestrator.stream.shards.statistics import ShuffleParams

    default = StreamSection()
    gap_bytes = LOCAL_GAP_BYTES if folder.is_local else OBJECT_GAP_BYTES
    pairs = product(chunks or (default.chunk,), windows or (default.window,))
    return [ShuffleParams(chunk, window, micro_batch_size, gap_bytes) for chunk, window in pairs]


def _values(statistics: DataStatistics) -> dict[str, Any]:
    from orchestrator.report.data_report import rows

    index, images = statistics.index, statistics.images
    return {
        "data_set": statistics.data_set,
        "samples": index.total,
        "shards": len(index.shards),
        "bytes": int(index.bytes.sum()),
        "caption_words": statistics.captions.words.tolist(),
        "captions_per_sample": statistics.captions.per_sample.tolist(),
        "images": {
            "formats": images.formats,
            "unusable": images.unusable,
            "faults": [fault.as_json() for fault in images.faults],
        },
        "quantities": {row.quantity: row.values for row in rows(statistics)},
        "shuffles": [asdict(shuffle) for shuffle in statistics.shuffles],
    }


def _print_statistics(statistics: DataStatistics, page: str) -> None:
    from rich.console import Console

    from orchestrator.report.data_report import rows
    from orchestrator.report.formats import percent
    from orchestrator.stream.order.shuffle_quality import PERFECT_MEDIAN, PERFECT_PERCENTILE_5

    index, images = statistics.index, statistics.images
    console = Console(highlight=False)
    console.print(
        f"{statistics.data_set}: {index.total:,} samples in {len(index.shards):,} {index.format} shards",
        soft_wrap=True,
        markup=False,
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in images.formats.items())
    unusable = f", {images.unusable} unusable" if images.unusable else ""
    console.print(f"images looked at: {kinds or 'none'}{unusable}", soft_wrap=True)
    for fault in images.faults:
        console.print(f"  {printable(fault.text())}", soft_wrap=True, markup=False)
    console.print()
    quantities = _table("", "least", "5%", "median", "95%", "most", "mean")
    for row in rows(statistics):
        quantities.add_row(row.quantity, *row.values)
    console.print(quantities)
    perfect = f"{percent(PERFECT_MEDIAN)} and {percent(PERFECT_PERCENTILE_5)}"
    console.print(
        "\nHow far apart neighbours in storage come, as a share of the epoch: their median and the nearest 5% "
        f"(perfect: {perfect});\nhow many samples of its chunk and shard a sample meets in its micro-batch (in "
        "brackets: perfect);\nrange reads per 1,000 samples, and bytes read per byte used:",
        soft_wrap=True,
    )
    console.print(_shuffle_table(statistics.shuffles))
    console.print(f"\nThe page with the charts is {page}.", soft_wrap=True, markup=False)


def _shuffle_table(shuffles: Any) -> Table:
    table = _table("chunk", "window", "median", "5%", "of its chunk", "of its shard", "reads", "read/used")
    for shuffle in shuffles:
        table.add_row(*_shuffle_row(shuffle))
    return table


def _shuffle_row(shuffle: Shuffle) -> tuple[str, ...]:
    from orchestrator.report.formats import figure, percent, times

    epoch = shuffle.separation.epoch
    return (
        f"{shuffle.knobs.chunk:,}",
        f"{shuffle.knobs.window:,}",
        percent(shuffle.separation.median / epoch),
        percent(shuffle.separation.percentile_5 / epoch),
        f"{figure(shuffle.mates.chunk)} ({figure(shuffle.mates.perfect_chunk)})",
        f"{figure(shuffle.mates.shard)} ({figure(shuffle.mates.perfect_shard)})",
        figure(shuffle.cost.reads_per_1000),
        times(shuffle.cost.amplification),
    )


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, justify="left" if not first else "right")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
