"""Ray sessions: starts Ray on this machine or joins a cluster with its token, with Ray's messages in a log file."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from socket import create_connection
from tempfile import NamedTemporaryFile
from typing import Any

import ray
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.config.errors import FuserayError
from orchestrator.config.recipe import RecoverySection, ScaleSection
from orchestrator.ray_internals import GcsClient, RayConfig, ray_worker, without_unused_processes
from orchestrator.storage.ray_folder import ray_folder, refuse_long_folder
from orchestrator.storage.retry import without_secrets

RAY_SETTINGS = {
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

    A local Ray gets its own token; a cluster is joined only with the token of this process.

    Args:
        scale: where Ray is, and how large its object store may be.
        cpus: CPUs that a local Ray may hand out.
        log: file for Ray's messages.
        recovery: settings for Ray Train, for sessions that train.

    Raises:
        ConfigError: the folder for Ray's temporary files is too long.
        RaySessionError: Ray cannot be started, or the cluster cannot be joined.
    """
    if scale.address == "local":
        refuse_long_folder(ray_folder())
    os.environ.update(ray_variables(scale, recovery or RecoverySection()))
    handler = _handler(log)
    _quiet(handler)
    with _own_token(scale.address) as options:
        if scale.address == "local":
            options |= {
                "num_cpus": cpus,
                "object_store_memory": scale.object_store_mb * 10**6,
            }
        with _shut_down_after_errors(), _explained(scale.address, log):
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
    with without_unused_processes() if address == "local" else nullcontext():
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            job_config=SamePathConfig(),
            **options,
        )


class RaySessionError(FuserayError):
    """Ray cannot be started, or a cluster cannot be joined; the message says why and what to do."""


@contextmanager
def _explained(address: str, log: Path) -> Iterator[None]:
    """Raise what Ray itself raises when it starts or connects as an error for the user."""
    try:
        yield
    except FuserayError:
        raise
    except Exception as error:
        first_line = (str(error).strip().splitlines() or ["no message"])[0].rstrip(". ")
        reason = without_secrets(f"{type(error).__name__}: {first_line}")
        _write_traceback(log)
        if address != "local":
            raise JoinError(
                f"the cluster at {address} cannot be joined ({reason}); {log} has the traceback."
            ) from error
        logs = ray_folder() / "ray" / "session_latest" / "logs"
        raise RaySessionError(
            f"Ray cannot be started on this machine ({reason}); {log} has the traceback, and {logs} Ray's own logs. "
            "`fuseray doctor --start-ray` checks this machine."
        ) from error


@contextmanager
def _shut_down_after_errors() -> Iterator[None]:
    """End what Ray has started when its start fails half-way."""
    try:
        yield
    except BaseException:
        ray.shutdown()
        raise


def _write_traceback(log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exc(file=file)


class SamePathConfig(JobConfig):
    """Has workers search for modules where this process does.

    Ray puts the driver's current folder in front of the workers' `sys.path`, even where the driver does not search it,
    as installed commands do not. A `torch.py` there, or a package named as one of this project's, would be imported.
    """

    def _get_proto_job_config(self) -> Any:
        searched = set(map(os.path.realpath, sys.path))
        self._py_driver_sys_path = [path for path in self._py_driver_sys_path if os.path.realpath(path) in searched]
        return super()._get_proto_job_config()  # type: ignore[no-untyped-call]


def ray_variables(scale: ScaleSection, recovery: RecoverySection) -> dict[str, str]:
    """Return the environment of a process that starts training; one machine alone is not watched for preemption."""
    alone = scale.address == "local" and recovery.notices == "none"
    return {
        **RAY_SETTINGS,
        **LARGE_ALLOCATIONS,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": str(int(not alone)),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(recovery.hang_s),
    }


@contextmanager
def _own_token(address: str) -> Iterator[dict[str, Any]]:
    """Give a local Ray its own token, in a file that only this user can read and that ends with the session."""
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
    """Send Ray's messages of this process to a log file only."""
    _quiet(_handler(log))


def _quiet(handler: logging.Handler) -> None:
    """Replace the handlers of Ray's loggers by one handler."""
    for name in ("ray", "ray.data", "ray.train", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    warnings.simplefilter("default")


def _handler(log: Path) -> logging.Handler:
    import_module("ray.data")  # sets up its own loggers, which would write to the terminal
    ray_worker.print_to_stdstream = _log_message  # the raylet's messages would go to standard output
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log)
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def _log_message(data: dict[str, Any], **_: object) -> None:
    logging.getLogger("ray").warning("%s: %s", data.get("pid"), " ".join(data.get("lines", ())))


CONNECT_TIMEOUT_S = 10.0
HOST_AND_PORT = re.compile(r"\[?(?P<host>[^\[\]/]+?)\]?:(?P<port>\d{1,5})")
HOW_TO_AUTHENTICATE = (
    "set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with, or put it into "
    "~/.ray/auth_token"
)


class JoinError(RaySessionError):
    """A cluster cannot be joined; the message says why and what to do."""


def prepare_joining(address: str) -> None:
    """Enable token authentication in this process, and check that a cluster accepts its token.

    Ray by itself leaves authentication off when it is given an address, ends the whole process for a token that cannot
    be read, and retries a wrong one for 20 seconds. `RAY_AUTH_MODE=disabled` joins a cluster without authentication.

    Args:
        address: HOST:PORT of the GCS, or another address for `ray.init`; only HOST:PORT can be checked beforehand.

    Raises:
        JoinError: there is no token, the address does not answer, or the cluster refuses the token.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    problem = token_problem(os.environ, Path.home())
    if problem:
        raise JoinError(f"the cluster at {address} cannot be joined: {problem}")
    match = HOST_AND_PORT.fullmatch(address)
    if match:
        _check_that_port_is_open(address, match["host"], int(match["port"]))
    _enable_token_authentication()
    if match:
        _check_that_token_is_accepted(address)


def token_problem(variables: Mapping[str, str], home: Path) -> str | None:
    """Return what is wrong with the token that Ray would use, None when nothing is.

    Args:
        variables: the environment's.
        home: the user's home.
    """
    if variables.get("RAY_AUTH_TOKEN", "").strip():
        return None
    path = variables.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path) if path else home / ".ray" / "auth_token"
    try:
        token = file.read_text().strip()
    except OSError as error:
        return f"the token {file} cannot be read ({error.strerror}); {HOW_TO_AUTHENTICATE}."
    return None if token else f"the token {file} is empty; {HOW_TO_AUTHENTICATE}."


def token_refused(address: str) -> JoinError:
    """Return the error for a cluster that does not accept the token."""
    return JoinError(f"the cluster at {address} refuses this process's token; {HOW_TO_AUTHENTICATE}.")


def _enable_token_authentication() -> None:
    """Have Ray use the token; it read the environment at import, so setting RAY_AUTH_MODE is not enough."""
    os.environ["RAY_AUTH_MODE"] = "token"
    RayConfig.initialize("")


def _check_that_port_is_open(address: str, host: str, port: int) -> None:
    try:
        create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JoinError(
            f"no Ray cluster answers at {address} ({reason}); check the address and that its head runs."
        ) from None


def _check_that_token_is_accepted(address: str) -> None:
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        raise token_refused(address) from None
    except RayError as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise JoinError(f"what answers at {address} is no Ray cluster that can be joined ({reason}).") from None


LARGE_ALLOCATIONS = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024**3),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024**3),
}
"""Environment that keeps large CPU tensors on the heap between steps; returning them costs a fifth of a CPU step."""


def start_actor_on_driver_node(cls: type) -> Any:
    """Start an actor on the driver's own node, so that it does not end with another node; return its handle.

    Args:
        cls: constructed without arguments; it reserves no CPU.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(cls)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()
