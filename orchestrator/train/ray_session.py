"""Starting Ray on this machine, quietly, or joining a cluster."""

from __future__ import annotations

import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import ray

from orchestrator.config.recipe import RecoverySection, ScaleSection
from orchestrator.train.allocations import LARGE_ALLOCATIONS
from orchestrator.train.joining import prepare_joining

QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # readers take seconds to start again
}


@contextmanager
def ray_session(scale: ScaleSection, cpus: float, log: Path, recovery: RecoverySection | None = None) -> Iterator[None]:
    """Run the body with Ray available; Ray's own messages go to a log file.

    A Ray of this machine gets a token of its own; a cluster is joined with the token of this process or not at all.

    Args:
        scale: where Ray is, and how large its object store may be.
        cpus: CPUs that a local Ray may hand out.
        log: file for Ray's messages.
        recovery: what Ray Train is to know of it, for sessions that train.

    Raises:
        JoinError: the cluster does not answer, or there is no token that it takes.
    """
    os.environ.update(ray_variables(scale, recovery or RecoverySection()))
    handler = _handler(log)
    _quiet(handler)
    with _own_token(scale.address) as options:
        if scale.address == "local":
            options |= {
                "num_cpus": cpus,
                "object_store_memory": scale.object_store_mb * 10**6,
                "include_dashboard": False,
            }
        _connect(scale.address, options)
        _quiet(handler)  # Ray takes the handlers off when it starts
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str, options: dict[str, Any]) -> None:
    if address != "local":
        prepare_joining(address)
        options |= {"runtime_env": {"env_vars": LARGE_ALLOCATIONS}}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        **options,
    )


def ray_variables(scale: ScaleSection, recovery: RecoverySection) -> dict[str, str]:
    """Return the variables of a process that starts training; on a machine alone nobody watches for its preemption."""
    alone = scale.address == "local" and recovery.notices == "none"
    return {
        **QUIET,
        **LARGE_ALLOCATIONS,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(not alone)),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(recovery.hang_s),
    }


@contextmanager
def _own_token(address: str) -> Iterator[dict[str, Any]]:
    """Give a local Ray a token of its own, in a file that only this user can read and that goes with the session."""
    if address != "local" or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        yield {}
        return
    with NamedTemporaryFile("w", prefix="ray-token-") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.environ["RAY_AUTH_TOKEN_PATH"] = file.name
        try:
            yield {}
        finally:
            del os.environ["RAY_AUTH_TOKEN_PATH"]


def log_ray_to(log: Path) -> None:
    """Have Ray's messages of this process go to a log file and nowhere else."""
    _quiet(_handler(log))


def _quiet(handler: logging.Handler) -> None:
    """Have Ray's loggers write to one handler alone."""
    for name in ("ray", "ray.data", "ray.train", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")


def _handler(log: Path) -> logging.Handler:
    import_module("ray.data")  # sets up loggers of its own, which would write to the terminal
    ray_worker: Any = import_module("ray._private.worker")
    ray_worker.print_to_stdstream = _log_message  # the raylet's messages would go to standard output
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _log_message(data: dict[str, Any], **_: object) -> None:
    logging.getLogger("ray").warning("%s: %s", data.get("pid"), " ".join(data.get("lines", ())))
