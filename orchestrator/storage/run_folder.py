"""The folder of a run in storage: its files by name, its run file, and how users refer to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from orchestrator.config.document import Document, value_at
from orchestrator.config.errors import FuserayError
from orchestrator.config.recipe_paths import is_gone, moved_place
from orchestrator.storage.location import Location, locate

RUN_FILE = "run.json"
RECIPE_FILE = "recipe.yaml"
MANIFEST_FILE = "manifest.json"
DAMAGED_FILE = "damaged.json"
PINNED_FILE = "pinned.json"

Content = TypeVar("Content")


class RunError(FuserayError):
    """A run is missing, or cannot be continued."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of `run.json`.

    Args:
        name: the run's name.
        recipe_digest: digest of what determines the result.
        index_digest: digest of the training data's index.
        tracking_uri: MLflow's address, or 'environment'; a path is absolute.
        mlflow_run_id: the run there.
        steps: steps in the whole run.
        created: ISO 8601 time of the first start.
        status: RUNNING, FINISHED, FAILED or KILLED, as in MLflow.
        ended: ISO 8601 time at which it last ended; empty while it runs.
    """

    name: str
    recipe_digest: str
    index_digest: str
    tracking_uri: str
    mlflow_run_id: str
    steps: int
    created: str
    status: str
    ended: str = ""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    root: Location

    @property
    def checkpoints(self) -> Location:
        """Holds a folder per checkpoint."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Location:
        """Holds the exported model."""
        return self.root / "model"

    @property
    def evaluation(self) -> Location:
        """Holds the last evaluation."""
        return self.root / "evaluation"

    @property
    def evaluation_work(self) -> Location:
        """Holds what is finished of evaluations that were stopped."""
        return self.root / "evaluation-work"

    @property
    def report(self) -> Location:
        """The report page."""
        return self.root / "report.html"

    @property
    def quarantine(self) -> Location:
        """The list of skipped samples, one JSON object a line."""
        return self.root / "quarantine.jsonl"

    @property
    def held_out_quarantine(self) -> Location:
        """The list of held-out samples that the newest evaluation could not use, one JSON object a line."""
        return self.root / "held-out-quarantine.jsonl"

    @property
    def post_mortem(self) -> Location:
        """Why the run failed, if it did: a JSON object."""
        return self.root / "post-mortem.json"

    @property
    def weights(self) -> Location:
        """What the model started from: a JSON list with the names of all tensors."""
        return self.root / "weights.json"

    @property
    def ledger(self) -> Location:
        """Holds the files of the ledger, when the run keeps one."""
        return self.root / "ledger"

    @property
    def metrics(self) -> Location:
        """Holds the files of the metric log."""
        return self.root / "metrics"

    @property
    def costs(self) -> Location:
        """Holds a file per start of the run: which machines it had, and when."""
        return self.root / "costs"

    @property
    def events(self) -> Location:
        """Events other than steps, one JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def measured(self) -> Location:
        """Metrics of steps that were measured after them, one JSON object a line."""
        return self.root / "measured.jsonl"

    @property
    def recipe(self) -> Location:
        """The resolved recipe."""
        return self.root / RECIPE_FILE

    def recipe_values(self) -> dict[str, Any]:
        """Return the values of the recipe with which the run was last started, none when there is no run.

        Raises:
            ConfigError: the recipe's file is damaged.
        """
        if self.recipe.size() is None:
            return {}
        return Document.parse(self.recipe.read().decode(), self.recipe.uri).to_dict()

    def checkpoint_folders(self) -> list[Location]:
        """Return the checkpoint folders in the order of their steps, whether committed or not."""
        folders = [folder for folder in self.checkpoints.list() if re.fullmatch(r"step-\d+", folder.name)]
        return sorted(folders, key=checkpoint_step)

    def committed_checkpoints(self) -> list[Location]:
        """Return the checkpoints with a manifest, newest first, except those marked damaged; no file is verified."""
        return [folder for folder in reversed(self.checkpoint_folders()) if _committed(folder.sizes())]

    def newest_step(self) -> int:
        """Return how many steps the newest committed checkpoint holds, 0 when there is none."""
        committed = self.committed_checkpoints()
        return checkpoint_step(committed[0]) if committed else 0

    def exists(self) -> bool:
        """Return whether a run was started here."""
        return (self.root / RUN_FILE).size() is not None

    def read(self) -> RunFile:
        """Return the content of the run file; an MLflow database that moved together with the folder is found.

        Raises:
            RunError: there is no run here, or its file is damaged.
        """
        location = self.root / RUN_FILE
        if location.size() is None:
            raise RunError(
                f"{self.root.uri}: is not a run (no {RUN_FILE}); "
                f"name a run's folder, or a run below {_parent(self.root)}."
            )
        file = read_json(location, RunFile, RunError)
        return replace(file, tracking_uri=self.follow_move(file.tracking_uri))

    def follow_move(self, place: str) -> str:
        """Return where an absolute path in a record of this folder is, if it moved together with the folder."""
        return moved_place(place, self.recorded_root(), self.root.path) if is_gone(place) else place

    def recorded_root(self) -> str:
        """Return where the folder was when its run or sweep was last started; where it is if that is not recorded."""
        storage = value_at(self.recipe_values(), ("storage", "uri")) if self.root.is_local else None
        return f"{storage}/{self.root.name}" if str(storage).startswith("/") else self.root.path

    def write(self, run: RunFile) -> None:
        """Write the run file."""
        (self.root / RUN_FILE).write(json_bytes(asdict(run)))


def find_run(name_or_uri: str, storage_uri: str, endpoint: str | None = None) -> RunFolder:
    """Return the run that a user means: a name below a storage URI, or the URI or path of a run's folder.

    Raises:
        RunError: there is no such run.
    """
    for run in map(RunFolder, candidate_folders(name_or_uri, storage_uri, endpoint)):
        if run.exists():
            return run
    raise RunError(
        f"no run {name_or_uri!r} below {storage_uri} and no run's folder of that name; "
        f"look into {storage_uri} for the runs there are, or name another storage URI with --storage."
    )


def candidate_folders(name_or_uri: str, storage_uri: str, endpoint: str | None) -> Iterator[Location]:
    """Yield the folders that a user may mean: a name below a storage URI, then a folder's own URI or path."""
    if "://" not in name_or_uri:
        yield locate(f"{storage_uri}/{name_or_uri}", endpoint)
    yield locate(name_or_uri, endpoint)


def checkpoint_step(checkpoint: Location) -> int:
    """Return how many steps a checkpoint holds, from its folder's name."""
    return int(checkpoint.name.removeprefix("step-"))


def _committed(sizes: Mapping[str, int]) -> bool:
    return MANIFEST_FILE in sizes and DAMAGED_FILE not in sizes


def _parent(location: Location) -> str:
    return location.uri.rpartition("/")[0]


def read_json(file: Location, content: Callable[..., Content], damaged: type[FuserayError]) -> Content:
    """Return the content of a JSON file.

    Args:
        file: the file, which holds one object.
        content: makes the content from the object's values, which are its keyword arguments.
        damaged: the class of the error about a damaged file.

    Raises:
        FuserayError: of the class `damaged`; the file is no JSON object, or lacks values.
    """
    try:
        return content(**json.loads(file.read()))
    except (ValueError, TypeError, KeyError) as error:
        raise damaged(f"{file.uri}: is damaged ({error}).") from error


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON with sorted keys, so that equal values give equal bytes."""
    return json.dumps(values, indent=2, sort_keys=True).encode()
