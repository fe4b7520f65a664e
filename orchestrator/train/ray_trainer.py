"""Makes Ray Train's trainer of a plan: scaling, failure handling, storage and the torch backend."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.train.torch import TorchConfig
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from orchestrator.config.recipe import ScaleSection
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.callback import AlwaysRetry, RecoveryCallback
from orchestrator.train.recovery.elastic import ElasticWorkers
from orchestrator.train.recovery.ray_internals import DatasetsCallback, PlacementGroupCleanerCallback, TorchBackend
from orchestrator.train.worker import Assignment, train

if TYPE_CHECKING:
    from ray.train.backend import BackendConfig

    from orchestrator.train.recovery.ray_internals import BaseWorkerGroup


UNLIMITED = -1
"""Ray Train's own retry budgets; the recipe's are kept by `RecoveryCallback`."""


class _Trainer(TorchTrainer):
    """Ray Train's trainer with Fuseray's failure policy and scaling policy.

    Args:
        assignment: what every worker is passed.
        failures: Ray Train's own retry budgets.
        scaling: how many workers, and what each reserves.
        options: further arguments of the trainer.
    """

    def __init__(self, assignment: Assignment, failures: FailureConfig, scaling: ScalingConfig, **options: Any) -> None:
        super().__init__(train, train_loop_config={"assignment": assignment}, scaling_config=scaling, **options)
        self._assignment, self._failures, self._scaling = assignment, failures, scaling

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        options["failure_policy"] = AlwaysRetry(self._failures)
        if self._scaling.elasticity_enabled:
            plan, on_no_room = self._assignment.plan, partial(_report_no_room, self._assignment.channel)
            kept_free = plan.recipe.stream.reader_cpus + plan.recipe.beside_cpus
            options["scaling_policy"] = ElasticWorkers(self._scaling, plan.run.root.uri, kept_free, on_no_room)
        return super()._initialize_and_run_controller(**options)

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """Leave out the placement group cleaner and the dataset manager, each an actor in a process of its own.

        Ray removes placement groups anyway, and the cleaner may outlive them; the workers read from iterators of their
        own, not from the trainer's datasets.
        """
        unused = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]


def _report_no_room(channel: Any) -> None:
    ray.get(channel.report_no_room.remote())


def make_trainer(plan: Plan, assignment: Assignment, logs: Path) -> TorchTrainer:
    """Return the trainer of a run.

    Args:
        plan: what to do.
        assignment: what every worker is passed.
        logs: local folder for logs.
    """
    failures = FailureConfig(
        max_failures=UNLIMITED,
        max_preemption_failures=UNLIMITED,
        controller_failure_limit=UNLIMITED,
    )
    return _Trainer(
        assignment,
        failures,
        _scaling(plan.recipe.scale),
        torch_config=FastShutdownTorchConfig(),
        run_config=RunConfig(
            name=f"{plan.recipe.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
            failure_config=failures,
            callbacks=[RecoveryCallback(assignment.channel, plan.recipe.recovery)],  # type: ignore[list-item]
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
    """Return where Ray Train keeps its own files, which are not used, but which every node must reach."""
    root = plan.run.root
    if root.is_local:
        return {"storage_path": str(logs / "ray-train")}
    return {"storage_path": f"{root.path}/ray-train", "storage_filesystem": root.filesystem}


class FastShutdownTorchBackend(TorchBackend):
    """Lets the process group end with its processes, which are killed in any case.

    Ray Train's default calls `destroy_process_group` on every worker, with a 30 s timeout for hung ones.
    """

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        """Do nothing."""


class FastShutdownTorchConfig(TorchConfig):
    """Ray Train's settings for torch, with `FastShutdownTorchBackend`."""

    @property
    def backend_cls(self) -> type[FastShutdownTorchBackend]:
        """The class that starts and stops the process group."""
        return FastShutdownTorchBackend
