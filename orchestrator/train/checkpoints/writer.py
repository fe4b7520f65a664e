"""Saving checkpoints beside training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.checkpoints.attempt import Attempt
from orchestrator.train.checkpoints.background import Background
from orchestrator.train.checkpoints.commit import Waiting
from orchestrator.train.checkpoints.manifest import MODEL_FILE, OPTIMIZER_FILE, STATE_FILE
from orchestrator.train.checkpoints.pieces import own_pieces
from orchestrator.train.checkpoints.staging import HostBuffers
from orchestrator.train.checkpoints.state import RunState
from orchestrator.train.checkpoints.writing import Outgoing, Write, Written
from orchestrator.train.parallel.protocol import Parallel


@dataclass(frozen=True, slots=True)
class Stall:
    """For how long a save held up training.

    Args:
        waiting_s: seconds until the write before was done.
        staging_s: seconds until all tensors were copied.
    """

    waiting_s: float
    staging_s: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.waiting_s + self.staging_s


class CheckpointWriter:
    """Saves a run's checkpoints; every worker has one, and all of them save together.

    A save copies this worker's part of the state; writing the copies goes on in a thread while training does. What
    fails there is raised by the next `save`, `wait` or `close`.

    Args:
        run: the run.
        rank: this worker's number.
        workers: how many there are.
        token: the same on all workers, and different for every start of the workers; see `shared_token`.
        section: which checkpoints stay.
        note: told about what went wrong without harm to a checkpoint.
        waiting: how long worker 0 waits for the others.
    """

    def __init__(
        self,
        run: RunFolder,
        rank: int,
        workers: int,
        token: str,
        section: CheckpointSection,
        note: Callable[[str], None] = lambda _: None,
        waiting: Waiting | None = None,
    ) -> None:
        self._run = run
        self._rank = rank
        self._workers = workers
        self._token = token
        self._section = section
        self._note = note
        self._waiting = waiting or Waiting()
        self._saves = 0
        self._buffers = HostBuffers()
        self._background = Background[Written]("checkpoint-writer")
        self._figures: dict[str, float] = {}

    def save(
        self,
        state: RunState,
        model: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        parallel: Parallel,
        metrics: Mapping[str, float] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> Stall:
        """Begin to save a checkpoint; when this returns, the tensors may change.

        Args:
            state: the run's state.
            model: the model's tensors as this worker holds them.
            moments: what `optimizer_tensors` returned.
            parallel: how the workers share the tensors.
            metrics: figures of the step, which `checkpoint.keep_best` looks at.
            extra: small files that worker 0 saves along, by name; `load_extra` returns them.

        Raises:
            CheckpointError: the checkpoint before this one could not be saved, or this one cannot be.
        """
        waiting_s = self.wait()
        began_s = perf_counter()
        self._saves += 1
        tag = f"{self._token}-{self._saves}"
        folder = self._run.checkpoints / f"step-{state.next_step:08d}"
        attempt = Attempt(folder, state.next_step, tag, self._rank, self._workers)
        files = self._staged(attempt, {MODEL_FILE: model, OPTIMIZER_FILE: moments}, parallel)
        if self._rank == 0:
            small = {**(extra or {}), STATE_FILE: state.encoded()}
            files += [Outgoing(attempt.shared_name(name), name, (content,)) for name, content in small.items()]
        write = Write(self._run, attempt, files, metrics or {}, self._section, self._waiting)
        self._background.start(write.run_now)
        return Stall(waiting_s, perf_counter() - began_s)

    @property
    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._background.idle

    def wait(self) -> float:
        """Wait until what was saved is written and, on worker 0, committed; return the seconds that this took.

        Raises:
            CheckpointError: it could not be saved; the message says what to do.
        """
        began_s = perf_counter()
        self._enter(self._background.wait())
        return perf_counter() - began_s

    def figures(self) -> dict[str, float]:
        """Return the figures of the write that was finished last, once."""
        self._enter(self._background.take())
        figures, self._figures = self._figures, {}
        return figures

    def close(self) -> None:
        """Wait for the last write and free the memory for copies.

        Raises:
            CheckpointError: it could not be saved.
        """
        try:
            self.wait()
        finally:
            self._buffers = HostBuffers()

    def _enter(self, written: Written | None) -> None:
        if written is None:
            return
        rate = written.size_bytes / 1e6 / max(written.seconds, 1e-9)
        self._figures = {"checkpoint/write_s": written.seconds, "checkpoint/write_mb_per_s": rate}
        for note in written.notes:
            self._note(note)

    def _staged(
        self, attempt: Attempt, contents: Mapping[str, Mapping[str, Tensor]], parallel: Parallel
    ) -> list[Outgoing]:
        files = []
        for content, tensors in contents.items():
            if pieces := own_pieces(tensors, parallel, self._rank, self._workers):
                staged = self._buffers.stage(content, pieces)
                files.append(Outgoing(attempt.own_name(content), content, (staged.header, staged.elements)))
        return files
