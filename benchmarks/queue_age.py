"""Whether the contrastive queue's keys are told apart by their age, on the corpus of the ablation; JSON lines.

    python benchmarks/queue_age.py --steps 200 --steps 800 --queue-size 0 --queue-size 1024 --momentum 0.98

Trains ITC alone (everything else of ablation.yaml unchanged) and compares, at several points of the run, a caption's
similarity with the wrong images of its own micro-batch, whose features the teacher has just made, and with those of the
queue. If age did not matter, one would be the larger as often as the other. Keys of a line:

    steps, queue_size, momentum   of the run
    fill_steps        steps until the queue holds no feature that it was made with: queue_size / samples of a step
    step              where the run is
    newer_larger      share of pairs (own wrong image, queue's image) where the own one is the more similar: 0.5 means
                      that age tells nothing, 1 that every key of the queue is known to be old
    newest, oldest    the same against the newest and the oldest tenth of the queue
    recall@1, recall@10   held-out text -> image, in the last line of a run
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from ablation_corpus import prepare
from ablation_rows import Run
from ablation_tokens import precompute
from ablation_training import Training
from leaving import leave_after
from torch import Tensor

FOLDER = Path("data") / "benchmark" / "ablation"
POINTS = 4
"""Where a run is looked at: after each of so many equal parts."""

ITC_ALONE = (
    "matching.enabled=false",
    "masking.enabled=false",
    "distillation.contrastive=false",
    "distillation.masked_language=false",
)


@click.command()
@click.option("--steps", type=click.IntRange(min=POINTS), multiple=True, default=[200, 800], show_default=True)
@click.option("--queue-size", "sizes", type=click.IntRange(min=0), multiple=True, default=[0, 1024], show_default=True)
@click.option("--momentum", "momenta", type=float, multiple=True, default=[0.98], show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="As of ablation.py.")
@click.option("--iconify", type=click.Path(path_type=Path), multiple=True, help="As of ablation.py.")
def main(
    steps: Sequence[int],
    sizes: Sequence[int],
    momenta: Sequence[float],
    seed: int,
    folder: Path,
    iconify: Sequence[Path],
) -> None:
    """Train every combination and print a line at each point."""
    corpus = prepare(folder, iconify)
    for length in steps:
        for size in sizes:
            for momentum in momenta:
                keys = {"length.steps": length, "contrastive.queue_size": size, "distillation.momentum": momentum}
                run = Run("+distilled-mlm", "clean", seed, (*ITC_ALONE, *(f"{key}={keys[key]}" for key in keys)))
                tokens = precompute(folder, run.recipe.workload, (*corpus.train, *corpus.held_out), corpus.digest)
                for line in _lines(Training(run, corpus, tokens), run):
                    setting = {"steps": length, "queue_size": size, "momentum": momentum}
                    click.echo(json.dumps(setting | line))


def _lines(training: Training, run: Run) -> Iterator[dict[str, Any]]:
    fill_steps = training.workload.config.contrastive.queue_size / run.recipe.recipe.batch.samples
    for number in range(run.steps):
        training.step(number)
        if (number + 1) % (run.steps // POINTS) == 0:
            line = {"fill_steps": fill_steps, "step": number + 1} | _ages(training, number + 1)
            if number + 1 == run.steps:
                metrics = training.contrastive_recalls()
                line |= {f"recall@{k}": round(metrics[f"text_to_image/recall@{k}"], 4) for k in (1, 10)}
            yield line


@torch.no_grad()
def _ages(training: Training, number: int) -> dict[str, float]:
    """Return how often a key of the next micro-batch is more similar than one of the queue, before it is trained on."""
    model, queue_EQ = training.workload.model, training.workload.model.queue.image_queue
    if not queue_EQ.shape[1]:
        return {}
    batch = {name: torch.from_numpy(array) for name, array in training.micro_batch(number).features.items()}
    mask_BL = torch.arange(batch["input_ids"].shape[1]) < batch["length"][:, None]
    states_BLD = model.student.bert.encode(model.student.bert.words(batch["input_ids"].long()), mask_BL)
    text_BE = model.student.text_embedding(states_BLD)
    own_BB = text_BE @ model.teacher.image_embedding(batch["image"].mean(1)).T
    wrong_BB = own_BB[~torch.eye(len(own_BB), dtype=torch.bool)].view(len(own_BB), -1)
    newest_first_BQ = text_BE @ queue_EQ.roll(-int(model.queue.queue_ptr), 1).flip(1)
    tenth = max(1, newest_first_BQ.shape[1] // 10)
    parts = {
        "newer_larger": newest_first_BQ,
        "newest": newest_first_BQ[:, :tenth],
        "oldest": newest_first_BQ[:, -tenth:],
    }
    return {name: round(_share_larger(wrong_BB, part), 3) for name, part in parts.items()}


def _share_larger(ours_BN: Tensor, theirs_BM: Tensor) -> float:
    return float((ours_BN[:, :, None] > theirs_BM[:, None]).double().mean())


if __name__ == "__main__":
    leave_after(main)
