"""Makes Ray Train's trainer of a plan: scaling, failure handling, storage and the process group."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.config.recipe import ScaleSection
from orchestrator.train.control_channel import Assignment
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.callback import AlwaysRetry, RecoveryCallback
from orchestrator.train.recovery.elastic import ElasticWorkers
from orchestrator.train.recovery.ray_internals import (
    BaseWorkerGroup,
    DatasetsCallback,
    PlacementGroupCleanerCallback,
    get_address_and_port,
)

UNLIMITED = -1
"""Ray Train's own retry budgets; the recipe's are kept by `RecoveryCallback`."""


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer with Fuseray's failure policy and scaling policy.

    Args:
        assignment: what every worker is passed.
        failures: Ray Train's own retry budgets.
        scaling: how many workers, and what each reserves.
        options: further arguments of the trainer.
    """

    def __init__(self, assignment: Assignment, failures: FailureConfig, scaling: ScalingConfig, **options: Any) -> None:
        super().__init__(_train, train_loop_config={"assignment": assignment}, scaling_config=scaling, **options)
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


def make_trainer(plan: Plan, assignment: Assignment, logs: Path) -> DataParallelTrainer:
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
        backend_config=ProcessGroupConfig("nccl" if plan.recipe.scale.use_gpu else "gloo"),
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


@dataclass(frozen=True)
class ProcessGroupConfig(BackendConfig):
    """The process group of torch that the workers join before they train.

    Ray Train's own settings for torch import it in the driver and the controller, which have no use for it.

    Args:
        backend: of torch.distributed.
    """

    backend: str

    @property
    def backend_cls(self) -> type[ProcessGroupBackend]:
        """The class that starts the process group."""
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):
    """Has the workers join a process group, which ends with their processes: those are killed in any case.

    Ray Train's default calls `destroy_process_group` on every worker, with a 30 s timeout for hung ones.
    """

    share_cuda_visible_devices = True

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: Any) -> None:
        """Have all workers join the group of a `ProcessGroupConfig`; returns when they have."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        backend, size = backend_config.backend, len(worker_group)
        joined: list[Any] = [
            worker_group.execute_single_async(rank, _join_process_group, address, port, backend, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)


def _join_process_group(address: str, port: int, backend: str, rank: int, size: int) -> None:
    """Join as Ray Train does; runs in a worker."""
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group  # import torch

    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    _set_torch_distributed_env_vars()
    _setup_torch_process_group(backend, rank, size, "env://")


def _train(config: dict[str, Assignment]) -> None:
    """Train in a worker process; `config` has the assignment, since Ray Train hands over a dictionary."""
    from orchestrator.train.worker import train  # imports torch

    train(config["assignment"])
