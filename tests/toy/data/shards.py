"""Small real shards for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import Index, ShardFormat
from orchestrator.stream.shards.corpus import build
from orchestrator.stream.shards.index_shards import IndexOptions, ShardProgress, make_index
from workloads.contract import Example, Sample


def picture(number: int, side: int = 24) -> bytes:
    """A PNG whose colours depend on its number."""
    colours = np.random.default_rng(number).integers(0, 255, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def samples(count: int) -> Iterator[Sample]:
    """Samples with distinct keys and captions."""
    for number in range(count):
        yield Sample(f"s{number:05d}", picture(number), (f"picture number {number} of a patch",), {"number": number})


def write_shards(folder: str, count: int, shard_format: ShardFormat = "webdataset", per_shard: int = 50) -> str:
    """Write shards with one split; return the split's folder."""
    examples = [Example("train", sample) for sample in samples(count)]
    build(lambda: examples, {"count": str(count)}, locate(folder), shard_format, per_shard)
    return f"{folder}/train"


def index_folder(folder: Location, progress: Callable[[ShardProgress], None] = lambda _: None) -> Index:
    """Index every shard in a folder with the default options and write the index."""
    return make_index(folder, IndexOptions(), progress).index
