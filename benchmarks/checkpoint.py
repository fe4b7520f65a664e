"""How long a checkpoint holds up training: one JSON line per size of model.

    python benchmarks/checkpoint.py --parameters 16.7e6 --parameters 200e6 --step-s 0.5

The state is that of ALBEF: student, teacher and AdamW's two moments, all of them float32, so 16 bytes per parameter. A
synchronous save gathers everything in main memory, serialises, digests and writes it while training waits; an
asynchronous one is `CheckpointWriter`'s. They take turns. Keys:

    parameters, state_mb        size of the model, and of the whole state in MB
    sync_stall_s                for how long a synchronous save holds up training; median
    first_stall_s               the same of the first asynchronous save, which makes the memory for copies
    stall_s                     of the later ones; median
    stall_ratio                 sync_stall_s / stall_s
    write_s, write_mb_per_s     from the copies to the committed checkpoint, beside training; median
    computing_lost_s            what float32 products lost beside a write, in seconds of their own pace; median
    load_s, load_mb_per_s       loading and verifying the newest checkpoint
    interval_steps, step_s      steps between checkpoints, and seconds of a step
    sync_share, share           stall over the time of the steps between two checkpoints: synchronous, asynchronous
    share_with_computing        the same with computing_lost_s added to the stall
"""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import uuid4

import click
import torch
from leaving import leave_after
from machine import synchronize
from safetensors.torch import save
from torch import Tensor

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.load import load_newest
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.parallel.base import SingleWorker
from orchestrator.train.parallel.data_parallel import Replicated

WIDTH = 768
"""Tensors are square, as most of a transformer's are."""

SIDE = 512
"""Of the matrices whose products stand for training."""


@dataclass(frozen=True, slots=True)
class State:
    """The tensors of a run."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @property
    def size_bytes(self) -> int:
        """Size of all of them."""
        return sum(tensor.nbytes for part in (self.model, self.optimizer) for tensor in part.values())


@click.command()
@click.option("--parameters", type=float, multiple=True, default=[16.7e6, 200e6], help="Of the model; repeatable.")
@click.option("--saves", type=click.IntRange(min=2), default=4, show_default=True, help="Saves of each kind.")
@click.option("--interval", type=click.IntRange(min=1), default=CheckpointSection().every_steps, show_default=True)
@click.option("--step-s", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--storage", help="Folder or URI to write to; default: a temporary folder.")
@click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
def main(parameters: tuple[float, ...], storage: str | None, endpoint: str | None, **options: Any) -> None:
    """Measure every size of model."""
    for count in parameters:
        with TemporaryDirectory(dir=Path.cwd()) as folder:
            run = RunFolder(locate(f"{storage or folder}/checkpoint-benchmark-{uuid4().hex[:8]}", endpoint))
            try:
                click.echo(json.dumps(measure(int(count), run, **options)))
            finally:
                run.root.delete()


def measure(parameters: int, run: RunFolder, saves: int, interval: int, step_s: float, device: str) -> dict[str, Any]:
    """Return the line of one size of model."""
    state = _state(parameters, torch.device(device))
    parallel = Replicated([torch.nn.Parameter(torch.zeros(1))], SingleWorker())
    writer = CheckpointWriter(run, 0, 1, uuid4().hex, CheckpointSection(keep=1))
    pace = _pace(lambda done_s: done_s > 1.0)
    sync, stalls, writes, lost = [], [], [], []
    for step in range(1, saves + 1):
        synchronize(torch.device(device))
        began_s = perf_counter()
        writer.save(_run_state(step), state.model, state.optimizer, parallel)
        stalls.append(perf_counter() - began_s)
        lost.append(_lost_beside(writer, pace, writes))
        sync.append(_seconds(lambda: _save_at_once(run, state)))
    writer.close()
    load_s = _seconds(lambda: load_newest(run))
    stall_s, sync_s, write_s, lost_s = (statistics.median(one) for one in (stalls[1:], sync, writes, lost))
    between_s, state_mb = interval * step_s, state.size_bytes / 1e6
    figures = {
        "state_mb": state_mb,
        "sync_stall_s": sync_s,
        "first_stall_s": stalls[0],
        "stall_s": stall_s,
        "stall_ratio": sync_s / stall_s,
        "write_s": write_s,
        "write_mb_per_s": state_mb / write_s,
        "computing_lost_s": lost_s,
        "load_s": load_s,
        "load_mb_per_s": state_mb / load_s,
        "sync_share": sync_s / between_s,
        "share": stall_s / between_s,
        "share_with_computing": (stall_s + lost_s) / between_s,
    }
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    return {"parameters": parameters, "device": device, "interval_steps": interval, "step_s": step_s, **rounded}


def _state(parameters: int, device: torch.device) -> State:
    tensors = -(-parameters // WIDTH**2)
    names = [f"blocks.{number}.weight" for number in range(tensors)]
    draw = torch.Generator(device).manual_seed(0)

    def part(prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{name}": torch.randn(WIDTH, WIDTH, device=device, generator=draw) for name in names}

    return State(part("student.") | part("teacher."), part("exp_avg/student.") | part("exp_avg_sq/student."))


def _run_state(step: int) -> RunState:
    return RunState(step, 0, "recipe", "index", "run", "albef", {}, None)


def _save_at_once(run: RunFolder, state: State) -> None:
    """Save as one worker that makes training wait: gather, serialise, digest, write."""
    place, digests = run.root / "at-once", {}
    for name, tensors in (("model", state.model), ("optimizer", state.optimizer)):
        content = save({key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()})
        digests[name] = hashlib.sha256(content).hexdigest()
        (place / name).write(content)
    (place / "manifest").write(json.dumps(digests).encode())


def _pace(enough: Callable[[float], bool]) -> float:
    """Return how many products a second this machine does until it is enough."""
    left, right, began_s, done = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), perf_counter(), 0
    while not (done and enough(perf_counter() - began_s)):
        torch.mm(left, right)
        done += 1
    return done / (perf_counter() - began_s)


def _lost_beside(writer: CheckpointWriter, pace: float, writes: list[float]) -> float:
    """Compute until the write is done, note how long it took, and return the seconds of computing that it cost."""
    waiter = threading.Thread(target=writer.wait)
    waiter.start()
    slower = _pace(lambda _: not waiter.is_alive())
    waiter.join()
    writes.append(writer.write_metrics()["checkpoint/write_s"])
    return max(0.0, writes[-1] * (1 - slower / pace))


def _seconds(action: Callable[[], object]) -> float:
    began_s = perf_counter()
    action()
    return perf_counter() - began_s


if __name__ == "__main__":
    leave_after(main)
