"""The statistics of a data set as one self-contained HTML page, with tables and distribution charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from orchestrator.report import formats, html
from orchestrator.report.charts import canvas
from orchestrator.report.formats import short_count
from orchestrator.report.html import LIGHT, environment, inline
from orchestrator.report.page import Tile
from orchestrator.report.panels import Drawing
from orchestrator.stream.dataset.index import Index
from orchestrator.stream.order.shuffle_quality import PERFECT_MEDIAN, PERFECT_PERCENTILE_5
from orchestrator.stream.shards.statistics import CaptionCounts, ImageSizes, Shuffle, percentile

SHARES = (0.05, 0.5, 0.95)
BINS = 40
FORMATS = {"webdataset": "WebDataset", "parquet": "Parquet"}
RATIOS = {0.25: "1:4", 0.5: "1:2", 0.75: "3:4", 1.0: "1:1", 4 / 3: "4:3", 2.0: "2:1", 4.0: "4:1"}
"""Width / height where the chart of shapes has a tick, and how it is written."""


@dataclass(frozen=True, eq=False)
class DataStatistics:
    """What a data set is made of.

    Args:
        data_set: its URI.
        index: its index.
        captions: counts of captions and words.
        images: of some samples.
        shuffles: how well some knobs shuffle it.
    """

    data_set: str
    index: Index
    captions: CaptionCounts
    images: ImageSizes
    shuffles: Sequence[Shuffle]


@dataclass(frozen=True, slots=True)
class Row:
    """How a quantity is distributed: least, 5th percentile, median, 95th percentile, most and mean, as written."""

    quantity: str
    values: tuple[str, ...]


def render_statistics(statistics: DataStatistics) -> str:
    """Return the page; it needs no network and no JavaScript, and equal statistics give equal pages."""
    return (
        environment()
        .get_template("data.html.j2")
        .render(
            {
                "statistics": statistics,
                "index": statistics.index,
                "captions": statistics.captions,
                "images": statistics.images,
                "tiles": _tiles(statistics),
                "rows": rows(statistics),
                "drawings": [*_caption_drawings(statistics.captions), *_image_drawings(statistics.images)],
                "shard_drawings": list(_shard_drawings(statistics.index)),
                "perfect_median": PERFECT_MEDIAN,
                "perfect_percentile_5": PERFECT_PERCENTILE_5,
                "light": html.css_variables(html.LIGHT),
                "dark": html.css_variables(html.DARK),
            }
        )
    )


def rows(statistics: DataStatistics) -> list[Row]:
    """Return the table of quantities; those of which nothing is known are left out."""
    captions, images, index = statistics.captions, statistics.images, statistics.index
    table = [
        _counted("words per caption", captions.words),
        _counted("captions per sample", captions.per_sample),
        _measured("image width (pixels)", images.widths),
        _measured("image height (pixels)", images.heights),
        _measured("image file", images.bytes, formats.size),
        _measured("samples per shard", index.samples),
        _measured("shard file", index.bytes, formats.size),
    ]
    return [row for row in table if row.values]


def _tiles(statistics: DataStatistics) -> list[Tile]:
    index, images = statistics.index, statistics.images
    words = statistics.captions.words
    tiles = [
        Tile("Samples", formats.count(index.total), f"in {len(index.shards):,} {FORMATS[index.format]} shards"),
        Tile("Stored", formats.size(int(index.bytes.sum())), f"{formats.size(_mean(index))} per sample"),
    ]
    if words.sum():
        long = f"95%: {percentile(words, 0.95)} or fewer"
        tiles.append(Tile("Median caption", f"{percentile(words, 0.5)} words", long))
    if len(images.widths):
        width, height = int(np.median(images.widths)), int(np.median(images.heights))
        kinds = ", ".join(f"{formats.percent(n / len(images.widths))} {kind}" for kind, n in images.formats.items())
        tiles.append(Tile("Median image", f"{width}{formats.TIMES}{height}", kinds))
    return tiles


def _mean(index: Index) -> int:
    return round(int(index.bytes.sum()) / index.total)


def _counted(quantity: str, counts: Numbers) -> Row:
    if not counts.sum():
        return Row(quantity, ())
    mean = float(counts @ np.arange(len(counts)) / counts.sum())
    least, most = int(np.flatnonzero(counts)[0]), len(counts) - 1
    values = (least, *(percentile(counts, share) for share in SHARES), most)
    return Row(quantity, (*map(formats.count, values), formats.figure(mean)))


def _measured(quantity: str, values: Numbers, write: Any = formats.count) -> Row:
    if not len(values):
        return Row(quantity, ())
    quantiles = np.percentile(values, [0, *(100 * share for share in SHARES), 100])
    return Row(quantity, tuple(write(round(float(value))) for value in (*quantiles, values.mean())))


def _caption_drawings(captions: CaptionCounts) -> Iterator[Drawing]:
    if captions.words.sum():
        shown = percentile(captions.words, 0.995)
        beyond = int(captions.words[shown + 1 :].sum())
        note = f"{beyond:,} longer captions, up to {len(captions.words) - 1:,} words, are not drawn." if beyond else ""
        edges, counts = of_counts(captions.words, shown)
        yield _drawing("Caption length", "words", "captions", edges, counts, note=note)
    edges, counts = of_counts(captions.per_sample, len(captions.per_sample) - 1)
    yield _drawing("Captions per sample", "captions", "samples", edges, counts, colour="green")


def _image_drawings(images: ImageSizes) -> Iterator[Drawing]:
    if not len(images.widths):
        return
    svg = scatter_chart(images.widths, images.heights, "width (pixels)", "height (pixels)", "image-sizes")
    yield Drawing("Image sizes", svg)
    yield _ratio_drawing(images)
    edges, counts = _bins(images.bytes / 1e3)
    yield _drawing("Image file size", "kB", "images", edges, counts, colour="orange")


def _ratio_drawing(images: ImageSizes) -> Drawing:
    ratios = np.clip(images.widths / images.heights, 0.25, 4.0)
    counts, edges = np.histogram(np.log2(ratios), bins=BINS, range=(-2, 2))
    histogram = Histogram(
        title="Shape of the images",
        along="width : height",
        unit="images",
        edges=(2.0**edges).tolist(),
        counts=counts.tolist(),
        colour="vermillion",
        ticks=list(RATIOS),
        tick_text=lambda ratio: RATIOS[min(RATIOS, key=lambda known: abs(known - ratio))],
        log=True,
    )
    extreme = int(((images.widths > 4 * images.heights) | (images.heights > 4 * images.widths)).sum())
    note = f"{extreme:,} images beyond 1:4 and 4:1 are in the outermost bars." if extreme else ""
    return Drawing(histogram.title, histogram_chart(histogram, "image-shapes"), note)


def _shard_drawings(index: Index) -> Iterator[Drawing]:
    """Draw how shards differ, where they do."""
    for title, along, values, colour in (
        ("Samples per shard", "samples", index.samples, "purple"),
        ("Shard size", "MB", index.bytes / 1e6, "sky"),
    ):
        if len(np.unique(values)) > 1:
            edges, counts = _bins(values)
            yield _drawing(title, along, "shards", edges, counts, colour=colour)


def _bins(values: Any) -> tuple[Any, Any]:
    counts, edges = np.histogram(values, bins=min(BINS, max(1, len(values))), range=(0, float(values.max()) * 1.0001))
    return edges, counts


def _drawing(
    title: str, along: str, unit: str, edges: Any, counts: Any, colour: str = "blue", note: str = ""
) -> Drawing:
    histogram = Histogram(
        title=title, along=along, unit=unit, edges=edges.tolist(), counts=counts.tolist(), colour=colour
    )
    return Drawing(title, histogram_chart(histogram, title.lower().replace(" ", "-")), note)


Numbers = NDArray[np.int64]
MOST_BARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How values are distributed.

    Args:
        title: what they are.
        along: what the horizontal axis shows, with its unit.
        unit: what is counted.
        edges: of the bars, [n + 1].
        counts: heights of the bars, [n].
        colour: name in the palette.
        ticks: values that the horizontal axis names; by default some round ones.
        tick_text: how a value is written.
        log: whether the horizontal axis is logarithmic.
    """

    title: str
    along: str
    unit: str
    edges: Sequence[float]
    counts: Sequence[int]
    colour: str = "blue"
    ticks: Sequence[float] = ()
    tick_text: Callable[[float], str] = short_count
    log: bool = False


def histogram_chart(histogram: Histogram, prefix: str) -> str:
    """Draw a histogram.

    Args:
        histogram: at least one bar.
        prefix: of the ids in the SVG.
    """
    drawing, axes = canvas(histogram.unit, along=histogram.along)
    edges = np.asarray(histogram.edges, dtype=np.float64)
    if histogram.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.bar(
        edges[:-1],
        histogram.counts,
        width=np.diff(edges),
        align="edge",
        color=LIGHT[histogram.colour],
        edgecolor=LIGHT["paper"],
        linewidth=0.6,
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    if len(histogram.ticks):
        axes.xaxis.set_major_locator(FixedLocator(histogram.ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: histogram.tick_text(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    return inline(drawing, prefix, _summary(histogram))


def scatter_chart(x: Numbers, y: Numbers, along: str, unit: str, prefix: str) -> str:
    """Draw points whose two coordinates have one unit, so that the diagonal means equality.

    Args:
        x: coordinates along the horizontal axis, int64[n], n > 0.
        y: coordinates along the vertical axis, int64[n].
        along: what the horizontal axis shows, with its unit.
        unit: what the vertical axis shows, with its unit.
        prefix: of the ids in the SVG.
    """
    drawing, axes = canvas(unit, along=along)
    most = 1.06 * max(x.max(), y.max())
    axes.plot([0, most], [0, most], color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, "o", markersize=4, markeredgewidth=0, alpha=0.35, color=LIGHT["blue"])
    axes.set_xlim(0, most)
    axes.set_ylim(0, most)
    return inline(drawing, prefix, f"{unit} against {along} of {len(x):,} images; the line is where they are equal")


def of_counts(counts: Numbers, shown: int) -> tuple[NDArray[np.float64], Numbers]:
    """Return edges and heights of bars over 0, 1, 2 ... up to and with `shown`; if there are many, some share a bar.

    Args:
        counts: how often there is 0, 1, 2 ..., int64[n].
        shown: the last value that is drawn.
    """
    width = max(1, -(-(shown + 1) // MOST_BARS))
    bars = -(-(shown + 1) // width)
    padded = np.zeros(bars * width, np.int64)
    drawn = counts[: min(len(counts), bars * width)]
    padded[: len(drawn)] = drawn
    heights = padded.reshape(bars, width).sum(axis=1, dtype=np.int64)
    return np.arange(bars + 1, dtype=np.float64) * width - 0.5, heights


def _summary(histogram: Histogram) -> str:
    total = int(np.sum(histogram.counts))
    return f"{histogram.title}: {total:,} values between {histogram.edges[0]:g} and {histogram.edges[-1]:g}"
