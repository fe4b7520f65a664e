from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from damage import write_data_set
from PIL import Image

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.shards.statistics import (
    ShuffleParams,
    count_captions,
    measure_images,
    measure_shuffle,
    percentile,
)
from workloads.contract import Sample


def image(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, kind)
    return buffer.getvalue()


def write(tmp_path: Path) -> str:
    samples = [
        Sample("a", image(30, 20), ("one", "two words"), {}),
        Sample("b", image(40, 20, "JPEG"), ("now there are five words",), {}),
        Sample("c", b"broken", ("one more",), {}),
        Sample("d", image(10, 10), ("x", "y", "z"), {}),
    ]
    return str(write_data_set(tmp_path / "data", [samples[:1], samples[1:]], "webdataset"))


def test_captions_are_counted(tmp_path: Path) -> None:
    folder = locate(write(tmp_path))
    steps: list[None] = []
    counts = count_captions(folder, read_index(folder), 100, lambda: steps.append(None))
    assert counts.words.tolist() == [0, 4, 2, 0, 0, 1]
    assert counts.per_sample.tolist() == [0, 2, 1, 1]
    assert counts.shards == len(steps) == 2
    assert count_captions(folder, read_index(folder), 1).shards == 1


def test_images_are_measured(tmp_path: Path) -> None:
    folder = locate(write(tmp_path))
    sizes = measure_images(folder, read_index(folder), 100, lambda: None)
    assert sizes.widths.tolist() == [30, 40, 10]
    assert sizes.heights.tolist() == [20, 20, 10]
    assert sizes.formats == {"PNG": 2, "JPEG": 1}
    assert sizes.unusable == 1
    assert sizes.bytes.tolist()[0] == len(image(30, 20))


def test_percentiles_of_counts() -> None:
    values = np.array([1, 1, 2, 5, 5, 5, 9])
    counts = np.bincount(values)
    for share in (0.05, 0.3, 0.5, 0.95, 1.0):
        assert percentile(counts, share) == np.quantile(values, share, method="inverted_cdf")


def test_a_larger_window_shuffles_better(tmp_path: Path) -> None:
    samples = [Sample(f"k{number}", b"x" * 50, ("c",), {}) for number in range(400)]
    folder = locate(str(write_data_set(tmp_path / "data", [samples[:200], samples[200:]], "webdataset")))
    index = read_index(folder)
    small, large = (measure_shuffle(index, ShuffleParams(8, window, 8, 0), seed=1) for window in (8, 200))
    assert small.mates.chunk == 7
    assert large.mates.chunk < 1
    assert large.separation.median > small.separation.median
    assert large.cost.reads_per_1000 <= small.cost.reads_per_1000
