"""Speed of one training step of ALBEF, without reading data: one JSON line per configuration.

    python benchmarks/train_step.py --config reference --adversarial-steps 0 --adversarial-steps 3

A step is forward, backward, AdamW, the teacher's update and the queue's, exactly as a run's worker does it. The peer
(see plain.py) takes turns with it in the same process, so that `speedup` holds on a noisy machine. Keys:

    config, adversarial_steps   what was measured
    pairs_per_s                 samples per second, from the median step
    gflop_per_pair              floating-point operations of the step's products and convolutions, per sample
    gemm_gflops                 best rate of a 2048-square float32 product, measured between the steps
    pairs_per_gemm_gflops       pairs_per_s / gemm_gflops: comparable between machines
    gemm_share                  gflop_per_pair * pairs_per_gemm_gflops: share of the GEMM rate that the step reaches
    peer_pairs_per_s, peer_gflop_per_pair  the same of the plain step without adversarial passes; null with --no-peer
    speedup                     median over the turns of the peer's time over the step's
    mfu                         on a GPU, share of its rated bfloat16 peak
    peak_bytes                  largest memory: of the process on a CPU, of the allocator on a GPU
    parts                       shares of the step's time (see parts.py)
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from operator import truediv
from time import perf_counter
from typing import Any

import click
from leaving import leave_after

from orchestrator.train.ray_session import LARGE_ALLOCATIONS

MAX_TOKENS = 25

CONFIGS: dict[str, dict[str, Any]] = {
    "reference": {"preset": "mini"},
    "base": {"preset": "base"},
    "mini": {"preset": "mini"},
    "tiny": {"preset": "tiny"},
}
"""`reference`: ViT 6x384 with patch 16 at 128 px, BERT 3+3x384, vocabulary 30522, queue 4096, dropout 0.1."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; see the options of `main`."""

    config: str
    adversarial_steps: int
    perturb: tuple[str, ...]
    form: str
    image_at: str
    batch_size: int
    repeats: int
    threads: int
    device: str
    precision: str
    peer: bool
    packed: bool
    masked_multiple: int
    caption_tokens: str
    compile: bool
    gradient_checkpointing: bool


@click.command()
@click.option("--config", "configs", type=click.Choice(list(CONFIGS)), multiple=True, default=["reference"])
@click.option("--adversarial-steps", "steps", type=click.IntRange(min=0), multiple=True, default=[0, 3])
@click.option("--perturb", type=click.Choice(["text", "image", "text,image"]), default="image", show_default=True)
@click.option("--form", type=click.Choice(["separate", "together", "alternating"]), default="separate")
@click.option("--image-at", type=click.Choice(["tokens", "patches"]), default="tokens", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=16, show_default=True, help="Pairs per step.")
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True, help="Measured steps.")
@click.option("--threads", type=click.IntRange(min=1), default=os.cpu_count(), show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--peer/--no-peer", default=True, show_default=True, help="Measure the plain step beside it.")
@click.option("--packed/--padded", default=True, show_default=True, help="Leave padding out, or keep shapes fixed.")
@click.option("--masked-multiple", type=click.IntRange(min=1), default=1, show_default=True, help="See the recipe key.")
@click.option(
    "--caption-tokens",
    type=click.Choice(["full", "web"]),
    default="full",
    show_default=True,
    help="All captions of 25 tokens, or lengths as in web captions: geometric, 12 on average.",
)
@click.option("--compile", is_flag=True, help="With torch.compile.")
@click.option("--gradient-checkpointing", is_flag=True, help="Recompute activations in the backward pass.")
def main(configs: tuple[str, ...], steps: tuple[int, ...], perturb: str, **options: Any) -> None:
    """Measure every configuration in a process of its own."""
    os.environ.update(LARGE_ALLOCATIONS)
    for config in configs:
        for adversarial_steps in steps:
            settings = Settings(config, adversarial_steps, tuple(perturb.split(",")), **options)
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                click.echo(json.dumps(pool.submit(measure, settings).result()))


def measure(settings: Settings) -> dict[str, Any]:
    """Return the line of one configuration."""
    import torch
    from machine import gemm_gflops, peak_gflops
    from parts import time_shares

    from orchestrator.plan.profile_model import count_flops

    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    step = _step(settings)
    gflop_per_pair = None if settings.compile else count_flops(step) / settings.batch_size / 1e9
    _seconds(step, device)
    peak_bytes, parts = _peak_bytes(device), time_shares(step, device)
    peer = _peer(settings) if settings.peer else None
    peer_flops = count_flops(peer) if peer else None
    rates, seconds, peer_seconds = [], [], []
    for _ in range(settings.repeats):
        rates.append(gemm_gflops(device))
        seconds.append(_seconds(step, device))
        peer_seconds += [_seconds(peer, device)] if peer else []
    pairs_per_s, peak = settings.batch_size / statistics.median(seconds), peak_gflops(device)
    gflops = None if gflop_per_pair is None else gflop_per_pair * pairs_per_s
    return {
        **asdict(settings),
        "pairs_per_s": _rounded(pairs_per_s),
        "pairs_per_s_best": _rounded(settings.batch_size / min(seconds)),
        "gflop_per_pair": _rounded(gflop_per_pair),
        "gemm_gflops": _rounded(max(rates)),
        "gemm_gflops_median": _rounded(statistics.median(rates)),
        "pairs_per_gemm_gflops": _rounded(pairs_per_s / max(rates)),
        "gemm_share": _rounded(gflops and gflops / max(rates)),
        "peer_pairs_per_s": _rounded(settings.batch_size / statistics.median(peer_seconds) if peer else None),
        "peer_gflop_per_pair": _rounded(peer_flops and peer_flops / settings.batch_size / 1e9),
        "speedup": _rounded(statistics.median(map(truediv, peer_seconds, seconds)) if peer else None),
        "mfu": _rounded(gflops and peak and gflops / peak),
        "peak_bytes": peak_bytes,
        "parts": parts,
        "torch": torch.__version__,
    }


def _seconds(step: Callable[[], object], device: Any) -> float:
    from machine import synchronize

    synchronize(device)
    start = perf_counter()
    step()
    synchronize(device)
    return perf_counter() - start


def _step(settings: Settings) -> Callable[[], object]:
    """Return what runs the next step on one fixed micro-batch."""
    import torch

    from orchestrator.config.recipe import BatchSection, DataSection, LengthSection, Recipe
    from orchestrator.train.parallel.base import SingleWorker
    from orchestrator.train.parallel.parallelize import parallelize_model
    from orchestrator.train.step import Stepper
    from workloads.contract import KeyedRandom

    recipe = Recipe(
        name="benchmark",
        workload="albef",
        precision=settings.precision,
        data=DataSection(train="none"),
        batch=BatchSection(micro_batches=1, micro_batch_size=settings.batch_size),
        length=LengthSection(steps=1_000_000),
    )
    device, collective, workload = torch.device(settings.device), SingleWorker(), _workload(settings)
    model = workload.build(device, KeyedRandom((0, "build")), pretrained=False)
    parallel = parallelize_model(recipe, workload, model, collective, device)
    stepper = Stepper(recipe, workload, parallel, collective, 1_000_000, 1_000_000, device)
    batch, numbers = _micro_batch(settings, workload), count()
    return lambda: stepper.run(next(numbers), [batch])


def _peer(settings: Settings) -> Callable[[], object]:
    """Return what runs the next plain step on the same micro-batch, without adversarial passes."""
    import torch
    from plain import PlainStep

    from workloads.contract import KeyedRandom

    device, workload = torch.device(settings.device), _workload(settings)
    workload.build(device, KeyedRandom((0, "build")), pretrained=False)
    features = _micro_batch(settings, workload).features
    batch = {name: torch.from_numpy(array).to(device) for name, array in features.items()}
    plain, numbers, half = PlainStep(workload), count(), settings.precision == "bfloat16"

    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return plain.run(next(numbers), batch)

    return step


def _workload(settings: Settings) -> Any:
    from workloads.albef.config import AlbefConfig
    from workloads.albef.workload import AlbefWorkload

    return AlbefWorkload(AlbefConfig.model_validate(_albef(settings)))


def _albef(settings: Settings) -> dict[str, Any]:
    return {
        "model": CONFIGS[settings.config],
        "compute": {
            "packed": settings.packed,
            "compile": settings.compile,
            "gradient_checkpointing": settings.gradient_checkpointing,
            "masked_multiple": settings.masked_multiple,
        },
        "text": {"max_tokens": MAX_TOKENS},
        "distillation": {"ramp_epochs": 0.0},
        "adversarial": {
            "steps": settings.adversarial_steps,
            "perturb": list(settings.perturb),
            "form": settings.form,
            "image_at": settings.image_at,
            "init": "uniform",
        },
    }


def _micro_batch(settings: Settings, workload: Any) -> Any:
    import numpy as np

    from orchestrator.stream.micro_batch import MicroBatch
    from workloads.nn.vocabulary import CLS, PAD

    model, random, rows = workload.config.model, np.random.default_rng(0), settings.batch_size
    input_ids = random.integers(1000, model.text.vocabulary, (rows, MAX_TOKENS), dtype=np.int32)
    input_ids[:, 0] = CLS
    lengths = np.full(rows, MAX_TOKENS)
    if settings.caption_tokens == "web":
        lengths = np.minimum(3 + random.geometric(1 / 9, rows), MAX_TOKENS)
        input_ids[np.arange(MAX_TOKENS) >= lengths[:, None]] = PAD
    features = {
        "image": random.integers(0, 256, (rows, 3, *model.image_hw), dtype=np.uint8),
        "input_ids": input_ids,
        "length": lengths.astype(np.int32),
    }
    return MicroBatch(0, tuple(str(row) for row in range(rows)), features, (), 0)


def _peak_bytes(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


if __name__ == "__main__":
    leave_after(main)
