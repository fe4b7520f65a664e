"""A plan as Ray Train sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from orchestrator.config.recipe import ScaleSection
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.callback import AlwaysRetry, Recovery
from orchestrator.train.recovery.elastic import ElasticWorkers
from orchestrator.train.worker import Assignment, train

if TYPE_CHECKING:
    from ray.train._internal.base_worker_group import BaseWorkerGroup
    from ray.train.backend import BackendConfig


WITHOUT_END = -1
"""Ray Train's budgets for attempts; ours are kept by `Recovery`."""


class _Trainer(TorchTrainer):
    """Ray Train's trainer, with our decisions about failures and about the number of workers.

    Args:
        assignment: what every worker is told.
        failures: Ray Train's budgets.
        scaling: how many workers, and what each reserves.
        given: what else a trainer gets.
    """

    def __init__(self, assignment: Assignment, failures: FailureConfig, scaling: ScalingConfig, **given: Any) -> None:
        super().__init__(train, train_loop_config={"assignment": assignment}, scaling_config=scaling, **given)
        self._assignment, self._failures, self._scaling = assignment, failures, scaling

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        given["failure_policy"] = AlwaysRetry(self._failures)
        if self._scaling.elasticity_enabled:
            plan, waiting = self._assignment.plan, partial(_lacks_machines, self._assignment.channel)
            reader_cpus = plan.recipe.stream.reader_cpus
            given["scaling_policy"] = ElasticWorkers(self._scaling, plan.run.root.uri, reader_cpus, waiting)
        return super()._initialize_and_run_controller(**given)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """Leave out the cleaner of placement groups: Ray removes them with the controller, and the cleaner may stay."""
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]


def _lacks_machines(channel: Any) -> None:
    ray.get(channel.lacks_machines.remote())


def make_trainer(plan: Plan, assignment: Assignment, logs: Path) -> TorchTrainer:
    """Return the trainer of a run.

    Args:
        plan: what to do.
        assignment: what every worker is told.
        logs: local folder for logs.
    """
    failures = FailureConfig(
        max_failures=WITHOUT_END,
        max_preemption_failures=WITHOUT_END,
        controller_failure_limit=WITHOUT_END,
    )
    return _Trainer(
        assignment,
        failures,
        _scaling(plan.recipe.scale),
        torch_config=QuickTorchConfig(),
        run_config=RunConfig(
            name=f"{plan.recipe.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
            failure_config=failures,
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


# How workers talk to each other, and how they stop.


class QuickTorchBackend(_TorchBackend):
    """Lets the process group end with its processes, which are killed in any case.

    Ray Train would have every worker take leave of the others, and wait 30 seconds for those that hang.
    """

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        """Do nothing."""


class QuickTorchConfig(TorchConfig):
    """Ray Train's settings for torch, with `QuickTorchBackend`."""

    @property
    def backend_cls(self) -> type[QuickTorchBackend]:
        """What starts and stops the process group."""
        return QuickTorchBackend
