"""Seeks among a billion samples in a million shards and prints what that took; run as a process of its own."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.stream.dataset.index import DIGEST_BYTES, Index, ShardNames
from orchestrator.stream.order.mixture import Mixture
from orchestrator.stream.order.sample_order import Order

SHARDS, SAMPLES_PER_SHARD = 1_000_000, 1_000
SAMPLES = SHARDS * SAMPLES_PER_SHARD


def large_index() -> Index:
    """Return an index of a million shards; names go straight to Arrow buffers, without a million Python strings."""
    text = bytearray()
    for number in range(SHARDS):
        text += b"shard-%07d.tar" % number
    ends = np.arange(SHARDS + 1, dtype=np.int32) * (len(text) // SHARDS)
    return Index(
        shards=ShardNames(pa.StringArray.from_buffers(SHARDS, pa.py_buffer(ends), pa.py_buffer(text))),
        samples=np.full(SHARDS, SAMPLES_PER_SHARD),
        bytes=np.full(SHARDS, 40_000_000),
        digests=np.zeros((SHARDS, DIGEST_BYTES), dtype=np.uint8),
        format="webdataset",
    )


def seek(index: Index, order: Order, mixture: Mixture, start: int) -> list[str]:
    """Return the shards that the first source's samples among 64 positions lie in."""
    sources, places = mixture.locate(np.arange(start, start + 64))
    shards, _ = index.find(order.sample_at(places[sources == 0]))
    return [index.shards[shard] for shard in shards.tolist()]


def peak_memory() -> int:
    """Return this program's peak memory in bytes; getrusage would count the process that started it as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    """Seek to several positions and print one JSON line."""
    index, order = large_index(), Order(SAMPLES, seed=3, chunk=1024, window=16384)
    mixture = Mixture.of([3, 1], seed=3)
    seconds, shards = [], []
    for start in (0, 123_456_789, 987_654_321, 7_000_000_001):
        begin = time.perf_counter()
        shards.append(seek(index, order, mixture, start))
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory(), "shards": [len(found) for found in shards]}))


if __name__ == "__main__":
    main()
