from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.report.data_report import (
    DataStatistics,
    Histogram,
    histogram_chart,
    of_counts,
    render_statistics,
    rows,
)
from orchestrator.stream.dataset.faults import FaultCount
from orchestrator.stream.dataset.index import DIGEST_BYTES, Index, ShardNames
from orchestrator.stream.shards.statistics import CaptionCounts, ImageSizes, ShuffleParams, measure_shuffle

FAULTS = (FaultCount("image is corrupt", 2, "003.tar", "17", ""),)
HOSTILE = "s3://bucket/<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def index(shards: int = 12) -> Index:
    sizes = np.arange(1, shards + 1) * 10
    digests = np.zeros((shards, DIGEST_BYTES), np.uint8)
    return Index(ShardNames(f"{n:03d}.tar" for n in range(shards)), sizes, sizes * 5000, digests, "webdataset")


def statistics(images: int = 300) -> DataStatistics:
    random = np.random.default_rng(3)
    words = np.bincount(random.poisson(9, 4000), minlength=200)
    widths, heights = random.integers(200, 900, (2, images))
    return DataStatistics(
        data_set=HOSTILE,
        index=index(),
        captions=CaptionCounts(np.append(words, 1), np.array([0, 5, 775]), 12),
        images=ImageSizes(widths, heights, widths * heights // 9, {"JPEG": images} if images else {}, FAULTS),
        shuffles=[measure_shuffle(index(), ShuffleParams(16, window, 32, 1024), seed=1) for window in (64, 512)],
    )


def test_the_page_says_everything_and_runs_nothing() -> None:
    page = render_statistics(statistics())
    assert "<script" not in page
    assert "780" in page
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        "Caption length",
        "Captions per sample",
        "Image sizes",
        "Shape of the images",
        "Image file size",
        "Samples per shard",
        "Shard size",
    ]
    assert re.search(r"\d+ longer captions, up to 200 words, are not drawn\.", page)
    assert page.count("perfect 29.3%") == 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_equal_statistics_give_equal_pages() -> None:
    assert render_statistics(statistics()) == render_statistics(statistics())


def test_without_usable_images_the_page_still_stands() -> None:
    found = statistics(images=0)
    assert "Image sizes" not in render_statistics(found)
    assert [row.quantity for row in rows(found)] == [
        "words per caption",
        "captions per sample",
        "samples per shard",
        "shard file",
    ]


def test_counts_become_bars() -> None:
    edges, counts = of_counts(np.array([0, 4, 2, 0, 1]), 3)
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert counts.tolist() == [0, 4, 2, 0]
    edges, counts = of_counts(np.ones(1000, np.int64), 999)
    assert counts.sum() == 1000
    assert len(counts) <= 60
    assert edges[-1] >= 999


def test_a_chart_uses_the_pages_colours() -> None:
    svg = histogram_chart(Histogram(title="t", along="x", unit="y", edges=[0, 1, 2], counts=[3, 1]), "p")
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r'href="#[^"]*"|url\(#[^)]*\)', "", svg)) == []
    assert "var(--blue)" in svg


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_page_opens_without_errors(tmp_path: Path, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = tmp_path / "stats.html"
    path.write_text(render_statistics(statistics()), encoding="utf-8")
    faults: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(path.as_uri())
        charts = page.locator("svg").evaluate_all("all => all.map(svg => svg.getBBox()).map(b => b.width * b.height)")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        browser.close()
    assert faults == []
    assert len(charts) == 7
    assert min(charts) > 0
    assert overflow <= 0
