"""The private names of Ray Train that Fuseray uses, gathered here; read in Ray 2.60.

`orchestrator/ray_internals.py` says when to look at them again, and has those of Ray's core.

What Ray Train calls while a run goes on, from which Fuseray derives:

    ControllerCallback, WorkerGroupCallback   `RecoveryCallback` sees states, resizes and polls of the workers
    DefaultFailurePolicy, FailureDecision     `AlwaysRetry` leaves the decision to `RecoveryCallback`
    ElasticScalingPolicy                      `ElasticWorkers` decides how many workers run

What it passes to them, and what they return:

    RestartingState, ReschedulingState        the workers have failed and are about to start again
    NoopDecision, ResizeDecision              whether the number of workers changes
    WorkerGroupStartupTimeoutError            the workers could not be placed in time
    WorkerHealthCheckTimeoutError             raised when no step was done for too long
    get_address_and_port                      finds the address of the workers' process group
    TrainAutoscalingCoordinatorClient         holds a run's request to the autoscaler, under an id of our own
    BaseWorkerGroup, ScalingDecision, TrainControllerState, TrainRunContext,
    WorkerGroup, WorkerGroupPollStatus, WorkerGroupState      for annotations

What it starts by default and Fuseray leaves out: DatasetsCallback, PlacementGroupCleanerCallback.

Overridden or read besides: `_initialize_and_run_controller` and `_create_default_callbacks` of the trainer in
ray_trainer.py, and there `_set_torch_distributed_env_vars` and `_setup_torch_process_group`, which import torch, in the
workers alone; `_requester_id`, `_coordinator_client`, `_send_resource_request`, `_get_reserved_resources`,
`_autoscaling_coordinator`, `_count_possible_workers` and `_resources_per_worker_not_none` in recovery/elastic.py;
`_missing_ranks` and `_base_exc` of errors in recovery/classify.py, which imports Ray Train's errors itself: verbs that
do not train load it, and need not load the rest.
"""

from __future__ import annotations

from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train._internal.utils import get_address_and_port
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RestartingState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupPollStatus, WorkerGroupState

__all__ = [
    "BaseWorkerGroup",
    "ControllerCallback",
    "DatasetsCallback",
    "DefaultFailurePolicy",
    "ElasticScalingPolicy",
    "FailureDecision",
    "NoopDecision",
    "PlacementGroupCleanerCallback",
    "ReschedulingState",
    "ResizeDecision",
    "RestartingState",
    "ScalingDecision",
    "TrainAutoscalingCoordinatorClient",
    "TrainControllerState",
    "TrainRunContext",
    "WorkerGroup",
    "WorkerGroupCallback",
    "WorkerGroupPollStatus",
    "WorkerGroupStartupTimeoutError",
    "WorkerGroupState",
    "WorkerHealthCheckTimeoutError",
    "get_address_and_port",
]
