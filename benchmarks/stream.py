"""Speed of the stream: samples from shards to a worker's micro-batches, beside other loaders, as JSON lines.

    python benchmarks/stream.py --source local --source s3 --rounds 5

Photographs of about 500x375 (see photos.py) become uint8 images of 256 pixels with ALBEF's training transform, in
micro-batches of 64, with as many decoding processes (or CPUs of Ray) as there are cores. The loaders take turns, each
in a fresh process, so that ratios hold on a noisy machine; a line has the medians over the rounds:

    loader              limit: the bare transform, one process per core, samples in memory; webdataset, litdata: the
                        loaders of these projects; fuseray: `StreamLoader` on a local Ray
    source              local: shards in a local folder; s3: in a SeaweedFS server on this machine
    samples_per_s       after the first quarter of the run, when nothing that was read ahead is left
    samples_per_s_runs  the same of every round
    share_of_limit      median over the rounds of samples_per_s over the limit's in the same round
    first_batch_s       from the opening of the stream, libraries loaded and Ray running, to its first micro-batch
    warm_up_wait_s      all waits in the first quarter of the run, that for the first micro-batch left out
    wait_p50_s, wait_p99_s  wait for the next micro-batch, after the first quarter of the run
    epoch_gap_s         longest wait for a micro-batch with an epoch's first sample; null with one epoch
    object_store_peak_bytes  most bytes taken in Ray's object store, looked at once a second; null without Ray
    cpu_s_per_1000      CPU seconds of the loader's whole process tree per 1,000 samples, over the same time
    delivered           samples that arrived (webdataset draws shards with replacement and rounds up to whole batches)
    image_bytes         median size of an image file; `images` says where they are from
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import photos
from leaving import leave_after
from stream_data import Data, Place, prepare, served
from stream_setting import Setting

from orchestrator.train.ray_session import LARGE_ALLOCATIONS

LOADERS = {
    "limit": "stream_peers:limit",
    "webdataset": "stream_peers:webdataset",
    "litdata": "stream_peers:litdata",
    "fuseray": "stream_fuseray:fuseray",
}
PEERS = ("webdataset", "litdata")
"""Loaders whose package is called as they are."""

SOURCES = ("local", "s3")
FIGURES = (
    "first_batch_s",
    "warm_up_wait_s",
    "wait_p50_s",
    "wait_p99_s",
    "epoch_gap_s",
    "object_store_peak_bytes",
    "cpu_s_per_1000",
)

Run = dict[str, Any]
"""The figures of one loader in one round."""


@click.command()
@click.option("--loader", "loaders", type=click.Choice(list(LOADERS)), multiple=True, default=list(LOADERS))
@click.option("--source", "sources", type=click.Choice(SOURCES), multiple=True, default=["local"], show_default=True)
@click.option("--samples", type=click.IntRange(min=8), default=4096, show_default=True, help="Samples in one epoch.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of every loader.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Micro-batch.")
@click.option("--cores", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--train-s", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Per micro-batch.")
@click.option("--data", "folder", type=click.Path(path_type=Path), default=Path("data/benchmark"), show_default=True)
def main(
    loaders: tuple[str, ...], sources: tuple[str, ...], samples: int, rounds: int, folder: Path, **options: Any
) -> None:
    """Let the loaders take turns, and print a line for each of them and each source."""
    os.environ.update(LARGE_ALLOCATIONS)
    _check_installed(loaders)
    data = prepare(folder, samples, with_chunks="litdata" in loaders)
    for source in sources:
        with served(data, source) as place:
            setting = _setting(data, source, place, options)
            turns = [{loader: _run(loader, setting) for loader in loaders} for _ in range(rounds)]
        for loader in loaders:
            click.echo(json.dumps(_line(loader, setting, turns) | _images(data)))


def _check_installed(loaders: tuple[str, ...]) -> None:
    missing = [loader for loader in loaders if loader in PEERS and find_spec(loader) is None]
    if missing:
        raise click.ClickException(
            f"{', '.join(missing)}: not installed; pip install 'fuseray[bench]', or name other loaders with --loader."
        )


def _setting(data: Data, source: str, place: Place, options: dict[str, Any]) -> Setting:
    return Setting(
        source=source,
        shards=place.shards,
        shard_names=data.shard_names(),
        chunks=place.chunks,
        local_shards=data.shards,
        endpoint=place.endpoint,
        samples=data.samples,
        **options,
    )


def _run(loader: str, setting: Setting) -> Run:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        run = pool.submit(_measured, loader, setting).result()
    click.echo(f"{setting.source} {loader}: {run['samples_per_s']:.0f} samples/s", err=True)
    return run


def _measured(loader: str, setting: Setting) -> Run:
    from stream_meter import measure

    multiprocessing.set_start_method(None, force=True)  # the platform's, not the pool's
    module, name = LOADERS[loader].split(":")
    return measure(getattr(import_module(module), name), setting)


def _line(loader: str, setting: Setting, turns: list[dict[str, Run]]) -> dict[str, Any]:
    runs = [turn[loader] for turn in turns]
    rates = [run["samples_per_s"] for run in runs]
    shares = [turn[loader]["samples_per_s"] / turn["limit"]["samples_per_s"] for turn in turns if "limit" in turn]
    return {
        "loader": loader,
        "source": setting.source,
        "samples_per_s": _rounded(statistics.median(rates)),
        "samples_per_s_runs": [_rounded(rate) for rate in rates],
        "share_of_limit": _rounded(statistics.median(shares)) if shares else None,
        **{name: _median(run[name] for run in runs) for name in FIGURES},
        "delivered": runs[0]["delivered"],
        "samples": setting.samples,
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "cores": setting.cores,
        "train_s": setting.train_s,
        "rounds": len(turns),
    }


def _images(data: Data) -> dict[str, Any]:
    return {"images": photos.origin(), "image_bytes": data.image_bytes(), "shards": len(data.shard_names())}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(statistics.median(known)) if known else None


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    leave_after(main)
