"""Faults, as they strike a run, and what is waited for after each of them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from chaos_cluster import ChaosCluster, Worker
from chaos_leftovers import lasting
from chaos_schedule import Fault, Kind
from chaos_training import Line, Training, TrainingEndedError

from orchestrator.storage.run_folder import MANIFEST_FILE, RunFolder
from workloads.contract import KeyedRandom

if TYPE_CHECKING:
    from mlflow_server import MlflowServer
    from unreliable_proxy import UnreliableProxy

LIMIT_S = 600.0
"""How long a run may take to go on after a fault, hangs not counted."""

NOTICE_S = 60
"""What a preemption notice gives the run."""

AWAY_S = 8.0
"""For how long storage breaks requests, and MLflow is down."""

LOOK_EVERY_S = 0.1

ENDED = "; new workers start"
"""How the run's message about workers that failed ends."""

ON_AGAIN = ("recovery: on with", "preemption: on with", "resize: on with")
"""How its message begins when they train again."""

DAMAGED = "is damaged"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a fault.

    Args:
        fault: the fault.
        detection_s: from the fault until the run said so; None for what needs no saying. Of a hang: after `hang_s`.
        recovery_s: without a step done, from the fault on. Of a hang: after `hang_s`.
        told: whether the run said all that it should have.
    """

    fault: Fault
    detection_s: float | None
    recovery_s: float
    told: bool = True


@dataclass(slots=True)
class Scene:
    """A run, and all that can fail it.

    Args:
        cluster: where it runs.
        training: its driver.
        run: its folder.
        scratch: folder for files of the benchmark.
        hang_s: after how many seconds without a step the run replaces its workers.
        every_steps: steps between its checkpoints.
        proxy: stands before its storage, if that may fail.
        mlflow: its tracking server, if that may be down.
        lingering: processes that were still there when the run had replaced them.
    """

    cluster: ChaosCluster
    training: Training
    run: RunFolder
    scratch: Path
    hang_s: float
    every_steps: int
    proxy: UnreliableProxy | None = None
    mlflow: MlflowServer | None = None
    lingering: list[str] = field(default_factory=list)

    def strike(self, fault: Fault) -> Outcome:
        """Wait for a fault's step, let it strike, and wait until the run is on again.

        Raises:
            TrainingEndedError: it does not go on.
        """
        self._await_step(fault.step)
        return STRIKES[fault.kind](self, fault)

    def worker_kill(self, fault: Fault) -> Outcome:
        """Kill a worker with SIGKILL."""
        return self._struck(fault, self.cluster.strike(self._worker(fault), signal.SIGKILL))

    def worker_stop(self, fault: Fault) -> Outcome:
        """Stop a worker, which hangs from then on."""
        worker = self._worker(fault)
        struck_s = self.cluster.strike(worker, signal.SIGSTOP)
        outcome = self._struck(fault, struck_s, self.hang_s)
        if self.cluster.cpus:
            self.lingering += lasting(lambda: [f"stopped worker {worker.pid}"] if _lives(worker.pid) else [])
        return outcome

    def node_remove(self, fault: Fault) -> Outcome:
        """Take a node with a worker away."""
        return self._struck(fault, self.cluster.lose(self._node(fault)))

    def node_add(self, fault: Fault) -> Outcome:
        """Add a node, for which the run grows."""
        began_s = time.time()
        self.cluster.add_node()
        on = self._await(began_s, ON_AGAIN, "the run has grown", 0.0)
        return Outcome(fault, None, self._gap_s(began_s, on))

    def preemption(self, fault: Fault) -> Outcome:
        """Give notice for a node through the watcher, and take it away when the run has left it or the time is up."""
        node = self._node(fault)
        notice = self.scratch / f"notice-{fault.step}"
        notice.write_text(json.dumps({"deadline_s": NOTICE_S, "reason": "chaos"}))
        struck_s = time.time()
        drained_s = self.cluster.preempt(node, notice)
        while not self._is_on_again(struck_s) and time.time() < struck_s + NOTICE_S:
            time.sleep(LOOK_EVERY_S)
        self.cluster.lose(node)
        told = self._await(struck_s, ("preempted: ",), "the preemption was told", 0.0)
        on = self._await(told.time_s, ON_AGAIN, "training went on after a preemption", 0.0)
        return Outcome(fault, told.time_s - drained_s, self._gap_s(told.time_s, on))

    def storage_fault(self, fault: Fault) -> Outcome:
        """Let storage break every second request for a while."""
        from unreliable_proxy import Fault as Broken
        from unreliable_proxy import no_faults, seeded

        assert self.proxy is not None
        struck_s = time.time()
        self.proxy.plan = seeded(fault.step, {Broken.RESET: 0.25, Broken.SLOW_DOWN: 0.25})
        self._until(struck_s + AWAY_S)
        self.proxy.plan = no_faults
        return self._survived(fault, struck_s, self.every_steps)

    def mlflow_down(self, fault: Fault) -> Outcome:
        """Kill the MLflow server, and start it again after a while."""
        assert self.mlflow is not None
        struck_s = time.time()
        self.mlflow.kill()
        self._until(struck_s + AWAY_S)
        self.mlflow.start()
        return self._survived(fault, struck_s, 1)

    def checkpoint_corruption(self, fault: Fault) -> Outcome:
        """Kill all workers, so that none can save any more, and flip a byte in their newest checkpoint."""
        self._await_checkpoint()
        struck_s = min(self.cluster.strike(worker, signal.SIGKILL) for worker in self._workers(fault))
        self._flip(KeyedRandom((fault.step, "flip")).numpy().random())
        outcome = self._struck(fault, struck_s)
        told = any(DAMAGED in line.said for line in self.training.lines if line.time_s >= struck_s)
        return Outcome(fault, outcome.detection_s, outcome.recovery_s, told)

    def driver_kill(self, fault: Fault) -> Outcome:
        """Kill the driver, and submit the run again."""
        struck_s = time.time()
        self.training.kill()
        self.training.start()
        return self._survived(fault, struck_s, 0)

    def _struck(self, fault: Fault, struck_s: float, patience_s: float = 0.0) -> Outcome:
        """Wait until the run has told of failed workers and trains again; `patience_s` is not counted."""
        told = self._await(struck_s, (), f"{fault.kind} was told", patience_s, ENDED)
        on = self._await(struck_s, ON_AGAIN, f"training went on after {fault.kind}", patience_s)
        since_s = max(struck_s, self._last_step_s(struck_s) + patience_s) if patience_s else struck_s
        return Outcome(fault, told.time_s - since_s, on.time_s - since_s)

    def _survived(self, fault: Fault, struck_s: float, steps: int) -> Outcome:
        """Wait until some further steps are done, and return for how long none was."""
        since_s = time.time()

        def look(lines: Sequence[Line]) -> Line | None:
            done = [line for line in lines if line.step is not None and line.time_s >= since_s]
            return done[steps] if len(done) > steps else None

        last = self.training.wait(look, LIMIT_S, f"training went on after {fault.kind}")
        return Outcome(fault, None, self._gap_s(struck_s, last))

    def _await_step(self, step: int) -> None:
        def look(lines: Sequence[Line]) -> bool | None:
            return any(line.step is not None and line.step >= step for line in lines) or None

        self.training.wait(look, LIMIT_S, f"step {step}")

    def _await(self, since_s: float, begins: tuple[str, ...], what: str, more_s: float, ends: str = "") -> Line:
        """Wait for a message."""

        def look(lines: Sequence[Line]) -> Line | None:
            said = (line for line in lines if line.said and line.time_s >= since_s)
            return next((one for one in said if one.said.startswith(begins or "") and one.said.endswith(ends)), None)

        return self.training.wait(look, LIMIT_S + more_s, what)

    def _is_on_again(self, since_s: float) -> bool:
        said = (line.said for line in self.training.lines if line.said and line.time_s >= since_s)
        return any(one.startswith(ON_AGAIN) for one in said)

    def _gap_s(self, since_s: float, until: Line) -> float:
        """Return the longest time without a step, from a moment until a line."""
        steps = [line.time_s for line in self.training.lines if line.step is not None and line.time_s > since_s]
        moments = [since_s, *(one for one in steps if one <= until.time_s)]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    def _last_step_s(self, before_s: float) -> float:
        return max(line.time_s for line in self.training.lines if line.step is not None and line.time_s <= before_s)

    def _worker(self, fault: Fault) -> Worker:
        workers = self._workers(fault)
        return workers[int(fault.draw * len(workers))]

    def _workers(self, fault: Fault) -> list[Worker]:
        if not (workers := self.cluster.workers()):
            raise TrainingEndedError(f"{fault.kind}: there is no worker any more; the run is too short for its faults.")
        return workers

    def _node(self, fault: Fault) -> str:
        if not (nodes := self.cluster.nodes_with_workers()):
            raise TrainingEndedError(
                f"{fault.kind}: no node has a worker any more; the run is too short for its faults."
            )
        return nodes[int(fault.draw * len(nodes))]

    def _await_checkpoint(self) -> None:
        """Wait for a new checkpoint, so that there is one before it."""
        before = self.run.newest_step()
        until_s = time.monotonic() + LIMIT_S
        while self.run.newest_step() == before:
            if time.monotonic() > until_s:
                raise TrainingEndedError(f"no checkpoint after that of step {before}.")
            time.sleep(LOOK_EVERY_S)

    def _flip(self, draw: float) -> None:
        """Flip a byte of the largest file of the newest checkpoint."""
        newest = self.run.committed_checkpoints()[0]
        sizes = {name: size for name, size in newest.sizes().items() if name != MANIFEST_FILE}
        largest = newest / max(sizes, key=lambda name: sizes[name])
        content = bytearray(largest.read())
        content[int(draw * len(content))] ^= 1
        largest.write(bytes(content))

    def _until(self, moment_s: float) -> None:
        time.sleep(max(0.0, moment_s - time.time()))


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


STRIKES: dict[Kind, Callable[[Scene, Fault], Outcome]] = {kind: getattr(Scene, kind.value) for kind in Kind}
