"""A plan as Ray Train sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

from orchestrator.spec.recipe import ScaleSection
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.callback import Recovery
from orchestrator.train.worker import Assignment, train

WITHOUT_END = -1
"""Ray Train's budgets for attempts; ours are kept by `Recovery`."""


def make_trainer(plan: Plan, assignment: Assignment, logs: Path) -> TorchTrainer:
    """Return the trainer of a run.

    Args:
        plan: what to do.
        assignment: what every worker is told.
        logs: local folder for logs.
    """
    return TorchTrainer(
        train,
        train_loop_config={"assignment": assignment},
        scaling_config=_scaling(plan.recipe.scale),
        run_config=RunConfig(  # type: ignore[arg-type]
            name=f"{plan.recipe.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
            failure_config=FailureConfig(
                max_failures=WITHOUT_END,
                max_preemption_failures=WITHOUT_END,
                controller_failure_limit=WITHOUT_END,
            ),
            callbacks=[Recovery(assignment.channel, plan.recipe.recovery)],  # type: ignore[list-item]
            **_storage(plan, logs),
        ),
    )


def _scaling(scale: ScaleSection) -> ScalingConfig:
    resources = {"CPU": scale.cpus_per_worker}
    return ScalingConfig(
        num_workers=scale.workers,
        elastic_resize_monitor_interval_s=scale.resize_every_s,
        use_gpu=scale.use_gpu,
        resources_per_worker=resources | {"GPU": 1.0} if scale.use_gpu else resources,
    )


def _storage(plan: Plan, logs: Path) -> dict[str, Any]:
    """Return where Ray Train keeps its own notes, which nobody reads, but which every machine must reach."""
    root = plan.run.root
    if root.is_local:
        return {"storage_path": str(logs / "ray-train")}
    return {"storage_path": f"{root.path}/ray-train", "storage_filesystem": root.filesystem}
