"""A report with everything in it, made of drawn pictures and computed curves."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from orchestrator.report.model import (
    Checkpoint,
    Curve,
    EvaluatedCheckpoint,
    Headline,
    Report,
    Run,
    Status,
)
from orchestrator.report.page import render
from orchestrator.stream.unusable import ReasonCount
from workloads.albef.entry import STEP_METRICS
from workloads.contract import Evaluation, Gallery, GalleryRow, Picture, ReportedMetrics
from workloads.downstream.retrieval_metrics import contrastive_metrics, reranked_metrics, retrieval_tables

METRICS = ReportedMetrics(
    steps=tuple(STEP_METRICS.values()),
    evaluation=contrastive_metrics(),
    final_evaluation=reranked_metrics(),
    step_hooks="teacher and queue",
)
HOSTILE = "<script>alert('caption')</script> & \"quotes\""
STEPS = tuple(range(1, 301))


def draw_png(hue: int, size: tuple[int, int] = (48, 32)) -> bytes:
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((4, 4, 28, 28), fill=(hue % 256, 90, 200, 255))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def falling(start: float, end: float) -> Curve:
    noise = np.random.default_rng(7).normal(scale=0.02 * start, size=len(STEPS))
    return Curve(STEPS, tuple(end + (start - end) * math.exp(-step / 60) + noise[step - 1] for step in STEPS))


def retrieval() -> dict[str, float]:
    metrics: dict[str, float] = {}
    for direction, recall in (("text_to_image", 0.30), ("image_to_text", 0.25)):
        for depth in (1, 5, 10):
            metrics[f"{direction}/recall@{depth}"] = recall * depth / 10
            metrics[f"reranked/{direction}/recall@{depth}"] = 1.2 * recall * depth / 10
            metrics[f"{direction}/chance@{depth}"] = depth / 500
        metrics[f"{direction}/median_rank"] = 31.5
    return metrics


def curves() -> dict[str, Curve]:
    logged = {
        name: falling(start, start / 4)
        for name, start in (
            ("loss", 16.0),
            ("loss_itc", 6.0),
            ("loss_itm", 0.7),
            ("loss_mlm", 9.0),
            ("adversarial_divergence", 0.4),
        )
    }
    logged |= {"learning_rate": falling(3e-4, 1e-6), "gradient_norm": falling(8, 1), "samples_per_s": falling(60, 59)}
    logged |= {"data_wait_share": Curve(STEPS, (0.03,) * len(STEPS)), "alpha": Curve(STEPS, (0.4,) * len(STEPS))}
    for name, share in retrieval().items():
        logged[f"held_out/{name}"] = Curve((100, 200, 300), (0.5 * share, 0.8 * share, 0.9 * share))
    return logged


def search_results(*rows: GalleryRow) -> Gallery:
    return Gallery("What captions retrieve", "Best on the left.", rows)


def heat_maps() -> Gallery:
    maps = zip(("blue", HOSTILE), np.linspace(0, 1, 128).reshape(2, 8, 8), strict=True)
    overlays = (Picture(4, word, map_HW=map_HW) for word, map_HW in maps)
    return Gallery("Where words look", "How much.", (GalleryRow(f"blue {HOSTILE}", (Picture(4), *overlays)),))


@pytest.fixture(scope="session")
def empty_report() -> Report:
    run = Run(name="my run", status=Status.RUNNING, created="1 May 2026, 10:00 UTC")
    return Report(run=run, metrics=METRICS)


@pytest.fixture(scope="session")
def full_report() -> Report:
    run = Run(
        name="albef-demo",
        status=Status.FINISHED,
        created="1 May 2026, 10:00 UTC",
        finished="1 May 2026, 10:06 UTC",
        recipe="recipes/demo.yaml",
        checkpoints=(Checkpoint(step=300, location="file:///runs/albef-demo/step-300", size_bytes=123_456_789),),
        mlflow_run_id="0123456789abcdef",
        mlflow_command="mlflow ui --backend-store-uri sqlite:///runs/mlflow.db",
    )
    found = tuple(Picture(i, f"picture {i}", 0.9 - 0.1 * i, i == 1) for i in range(4))
    return Report(
        run=run,
        headline=Headline(
            steps=300,
            planned_steps=300,
            samples=9600,
            samples_per_s=58.31,
            wall_time_s=341.2,
            usd=1234.5,
            node_hours=41.2,
        ),
        curves=curves(),
        time={"start-up": 20.0, "data wait": 9.0, "forward + backward": 240.0, "other": 6.0, "evaluation": 0.0},
        metrics=METRICS,
        evaluated=EvaluatedCheckpoint(
            Evaluation(
                retrieval(),
                retrieval_tables(reranked=True),
                (search_results(GalleryRow("a blue disc", found), GalleryRow(HOSTILE, found[:1])), heat_maps()),
            ),
            {i: draw_png(40 * i) for i in range(5)},
        ),
        skipped=(ReasonCount("image is truncated", 1234, (HOSTILE,)),),
        recipe_yaml=f"steps: 300\nname: {HOSTILE}\n",
        machine={"Python": "3.11.2", "Note": HOSTILE},
    )


@pytest.fixture(scope="session")
def full_page(full_report: Report) -> str:
    return render(full_report)
