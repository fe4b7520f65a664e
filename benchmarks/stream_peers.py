"""The loaders that Fuseray is measured against, set up as their documentation advises, with one process per core."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import photos
from stream_setting import Setting, Stream, draw_of, sample_of, stored_samples, training_transform

from workloads.contract import Features, Sample, Transform

SHUFFLE_BUFFER = 1000
PREFETCH = 4
"""Micro-batches that each process of a DataLoader keeps ready."""
LINK_VALID_S = 3600


@contextmanager
def limit(setting: Setting) -> Iterator[Callable[[], Stream]]:
    """Decode and augment, one process per core, samples in memory: nothing is read, stacked or sent."""
    context = multiprocessing.get_context("fork")
    samples, done, go = list(stored_samples(setting)), context.SimpleQueue(), context.Event()
    ready = context.Barrier(setting.cores + 1)
    processes = [
        context.Process(target=_loop, args=(samples[core :: setting.cores], setting, ready, go, done))
        for core in range(setting.cores)
    ]
    for process in processes:
        process.start()
    ready.wait()

    def start() -> Stream:
        go.set()
        left = setting.total
        while left:
            left -= (count := done.get())
            yield count

    yield start
    for process in processes:
        process.join()


def _loop(samples: Sequence[Sample], setting: Setting, ready: Any, go: Any, done: Any) -> None:
    import torch

    torch.set_num_threads(1)
    transform, pending = training_transform(), 0
    transform(samples[0], draw_of(samples[0].key))
    ready.wait()
    go.wait()
    for epoch in range(setting.epochs):
        for sample in samples:
            transform(sample, draw_of(sample.key, epoch))
            pending += 1
            if pending == setting.batch_size:
                done.put(pending)
                pending = 0
    if pending:
        done.put(pending)


@contextmanager
def webdataset(setting: Setting) -> Iterator[Callable[[], Stream]]:
    """WebDataset in a WebLoader: shards drawn with replacement, a shuffle buffer, batches made in the processes."""
    import webdataset as wds

    workers = min(setting.cores, len(setting.shard_names))
    dataset = (
        wds.WebDataset(_links(setting), resampled=True, shardshuffle=False, nodesplitter=None)
        .shuffle(SHUFFLE_BUFFER)
        .to_tuple("__key__", "jpg", "json")
        .map(Transformed(training_transform()))
        .batched(setting.batch_size, collation_fn=stacked)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=PREFETCH)

    def start() -> Stream:
        left, batches = setting.total, iter(loader)
        while left > 0:
            left -= (count := len(next(batches)["image"]))
            yield count

    yield start


def _links(setting: Setting) -> list[str]:
    """Return what WebDataset opens: paths, or for S3 signed links, which its handler reads with curl."""
    if setting.endpoint is None:
        return [str(setting.local_shards / name) for name in setting.shard_names]
    import boto3

    client = boto3.client("s3", endpoint_url=setting.endpoint)
    bucket, _, folder = setting.shards.removeprefix("s3://").partition("/")
    return [
        client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": f"{folder}/{name}"}, LINK_VALID_S)
        for name in setting.shard_names
    ]


@contextmanager
def litdata(setting: Setting) -> Iterator[Callable[[], Stream]]:
    """LitData's StreamingDataset and StreamingDataLoader, shuffled, with an empty cache when the source is remote."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # the server speaks HTTP, which LitData refuses otherwise
    options = {"endpoint_url": setting.endpoint} if setting.endpoint else {}
    with TemporaryDirectory(prefix="litdata-") as cache:
        dataset = StreamingDataset(
            setting.chunks,
            cache_dir=cache if setting.endpoint else None,
            shuffle=True,
            storage_options=options,
            transform=Transformed(training_transform()).of_item,
        )
        loader = StreamingDataLoader(
            dataset,
            batch_size=setting.batch_size,
            num_workers=setting.cores,
            collate_fn=stacked,
            prefetch_factor=PREFETCH,
            persistent_workers=True,
        )

        def start() -> Stream:
            for _ in range(setting.epochs):
                for batch in loader:
                    yield len(batch["image"])

        yield start


@dataclass(frozen=True, slots=True)
class Transformed:
    """Applies the training transform to the members of a stored sample."""

    transform: Transform

    def __call__(self, members: tuple[str, bytes, bytes]) -> Features:
        """Transform what WebDataset passes: key, image and captions of a sample."""
        sample = sample_of(*members)
        return self.transform(sample, draw_of(sample.key))

    def of_item(self, item: dict[str, Any]) -> Features:
        """Transform what LitData stores of a sample."""
        return self((item["key"], item["image"], item["json"]))


def stacked(features: Sequence[Features]) -> dict[str, Any]:
    """Return a micro-batch as tensors, which torch passes between processes in shared memory."""
    import torch

    return {name: torch.from_numpy(np.stack([one[name] for one in features])) for name in features[0]}


def write_chunks(folder: Path, samples: int) -> None:
    """Write the benchmark's photographs in LitData's format."""
    from litdata import optimize

    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted call has left
    optimize(
        fn=_item,
        inputs=list(range(samples)),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def _item(number: int) -> dict[str, Any]:
    sample = photos.sample(number)
    return {"key": sample.key, "image": sample.image, "json": json.dumps({"captions": sample.captions}).encode()}
