"""Speed of evaluating retrieval with ALBEF, and its memory: one JSON line per measurement.

    python benchmarks/evaluate.py --geometry albef-384 --geometry tiny

The peer is the plain procedure on the same model in the same process, and takes turns with Fuseray, so that `speedup`
holds on a noisy machine: it scores a query with its candidates as one batch, in which image tokens are repeated, texts
are padded to 30 tokens and all tokens run through all layers; it encodes texts padded, too. Weights are random, and
captions as long as those of the web: 12 tokens on average. Keys:

    what          rerank: pairs of text and image scored; texts, images: encoded; memory: see evaluate_memory.py
    geometry      albef-384: 577 image tokens, width 768, 6 text and 6 fusion layers; tiny: the preset of that name
    who           fuseray or plain
    pairs_per_s, texts_per_s, images_per_s   from the median round
    speedup       median over the rounds of the plain procedure's time per pair over Fuseray's
    difference    largest difference between the logits of both
    gemm_gflops   best rate of a 2048-square float32 product, measured between the rounds
    peak_bytes    largest resident memory of the process during the rounds of `who`
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
from leaving import leave_after

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.albef.model import AlbefInference

MAX_TOKENS = 30

GEOMETRIES: dict[str, dict[str, Any]] = {
    "albef-384": {"preset": "base", "image_size": 384},
    "tiny": {"preset": "tiny"},
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; see the options of `main`."""

    geometry: str
    texts: int
    candidates: int
    images: int
    rounds: int
    threads: int


@click.command()
@click.option("--geometry", "geometries", type=click.Choice(list(GEOMETRIES)), multiple=True, default=list(GEOMETRIES))
@click.option("--texts", type=click.IntRange(min=1), default=256, show_default=True, help="Texts of one image.")
@click.option("--candidates", type=click.IntRange(min=1), default=32, show_default=True, help="In a plain batch.")
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True, help="Encoded at a time.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Of 5,000 images and 25,000 texts.")
def main(geometries: tuple[str, ...], memory: bool, **options: Any) -> None:
    """Measure every geometry, and the memory, in processes of their own."""
    for geometry in geometries:
        for line in _apart(measure, Settings(geometry, **options)):
            click.echo(json.dumps(line))
    if memory:
        import evaluate_memory

        for part in (evaluate_memory.driver, evaluate_memory.actor):
            click.echo(json.dumps(_apart(part, options["threads"])))


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Return the lines of one geometry."""
    import torch

    torch.set_num_threads(settings.threads)
    with torch.no_grad():
        return [{**line, "geometry": settings.geometry} for line in Comparison(settings).lines()]


class Comparison:
    """Fuseray and the plain procedure on one model.

    Args:
        settings: what to measure.
    """

    def __init__(self, settings: Settings) -> None:
        import torch

        from workloads.contract import KeyedRandom

        self._settings = settings
        self._model = inference(settings.geometry)
        draw = KeyedRandom(("benchmark", settings.geometry))
        vocabulary, (height, width) = self._model.config.text.vocabulary, self._model.config.image_hw
        self._ids_TL, self._length_T = captions(settings.texts, vocabulary, draw)
        pixels = draw.child("images").torch()
        self._image_B3HW = torch.randint(256, (settings.images, 3, height, width), generator=pixels, dtype=torch.uint8)
        self._image_BND = self._model.encode_images(self._image_B3HW).tokens_BND

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the measurements."""
        yield from self._rerank()
        yield from self._texts()
        yield from self._images()

    def _rerank(self) -> Iterator[dict[str, Any]]:
        texts, _ = self._model.pack_texts(self._ids_TL, self._length_T)
        student, count = self._model.student, min(self._settings.candidates, self._settings.texts)
        padded_TLD = _padded_states(student, self._ids_TL, self._length_T)
        mask_BL = _mask(self._length_T)[:count]

        def ours() -> Tensor:
            return self._model.match_grouped(texts, self._image_BND[0])[:, 1]

        def plain() -> Tensor:
            from plain import fuse

            image_BND = self._image_BND[:1].repeat(count, 1, 1)
            return student.match_logits(fuse(student, padded_TLD[:count], mask_BL, image_BND)[:, 0])[:, 1]

        difference = float((ours()[:count] - plain()).abs().max())
        for line in self._rounds(ours, self._settings.texts, plain, count, "pairs_per_s"):
            yield {"what": "rerank", **line, "difference": difference}

    def _texts(self) -> Iterator[dict[str, Any]]:
        def ours() -> object:
            return self._model.pack_texts(self._ids_TL, self._length_T)

        def plain() -> object:
            return _padded_states(self._model.student, self._ids_TL, self._length_T)

        count = self._settings.texts
        for line in self._rounds(ours, count, plain, count, "texts_per_s"):
            yield {"what": "texts", **line}

    def _images(self) -> Iterator[dict[str, Any]]:
        def ours() -> object:
            return self._model.encode_images(self._image_B3HW)

        def plain() -> object:
            from plain import encode_image

            return encode_image(self._model.student, self._image_B3HW)

        count = self._settings.images
        for line in self._rounds(ours, count, plain, count, "images_per_s"):
            yield {"what": "images", **line}

    def _rounds(
        self, ours: Callable[[], object], our_count: int, plain: Callable[[], object], plain_count: int, rate: str
    ) -> Iterator[dict[str, Any]]:
        """Yield a line for Fuseray and one for the plain procedure."""
        import torch
        from machine import gemm_gflops

        own, other, gflops = Turns(ours, our_count), Turns(plain, plain_count), []
        for _ in range(self._settings.rounds):
            gflops.append(gemm_gflops(torch.device("cpu")))
            own.take()
            other.take()
        speedup = statistics.median(map(truediv, other.seconds, own.seconds))
        for who, turns in {"fuseray": own, "plain": other}.items():
            yield {
                "who": who,
                rate: _rounded(1 / statistics.median(turns.seconds)),
                "speedup": _rounded(speedup if who == "fuseray" else 1.0),
                "gemm_gflops": _rounded(max(gflops)),
                "peak_bytes": turns.peak_bytes,
                "threads": self._settings.threads,
            }


class Turns:
    """Repeated runs of one thing.

    Args:
        run: what is measured; it has run once before the first turn.
        count: things done in a run.
    """

    def __init__(self, run: Callable[[], object], count: int) -> None:
        run()
        self._run = run
        self._count = count
        self.seconds: list[float] = []
        self.peak_bytes = 0

    def take(self) -> None:
        """Run once, and note the seconds per thing and the largest memory."""
        forget_peak()
        start = perf_counter()
        self._run()
        self.seconds.append((perf_counter() - start) / self._count)
        self.peak_bytes = max(self.peak_bytes, peak_bytes())


def inference(geometry: str) -> AlbefInference:
    """Return a model with random weights."""
    import torch

    from workloads.albef.config import AlbefConfig
    from workloads.albef.model import AlbefInference, Student
    from workloads.contract import KeyedRandom

    config = AlbefConfig.model_validate({"model": GEOMETRIES[geometry], "text": {"max_tokens": MAX_TOKENS}})
    torch.manual_seed(KeyedRandom(("benchmark", geometry)).seed())
    return AlbefInference(Student(config.model, 0.07).eval(), config.model)


def captions(count: int, vocabulary: int, draw: Any) -> tuple[Tensor, Tensor]:
    """Return zero-padded ids [T, MAX_TOKENS] and lengths: geometric, 12 on average."""
    import torch

    from workloads.nn.vocabulary import CLS, PAD

    random = draw.child("captions").numpy()
    length_T = torch.from_numpy((3 + random.geometric(1 / 9, count)).clip(max=MAX_TOKENS))
    ids_TL = torch.from_numpy(random.integers(1000, vocabulary, (count, MAX_TOKENS)))
    ids_TL[:, 0] = CLS
    return ids_TL.masked_fill(~_mask(length_T), PAD), length_T


def forget_peak() -> None:
    """Start the count of this process's largest memory anew, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Return the largest resident memory of this process since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _padded_states(student: Any, ids_TL: Tensor, length_T: Tensor) -> Tensor:
    from plain import encode_text

    return encode_text(student, ids_TL, _mask(length_T))


def _mask(length_T: Tensor) -> Tensor:
    import torch

    return torch.arange(MAX_TOKENS) < length_T[:, None]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    leave_after(main)
