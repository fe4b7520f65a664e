"""A sweep's folder in storage: its YAML and recipe, its state, and the record of every trial."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from orchestrator.config.document import Document
from orchestrator.config.errors import FuserayError, RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.recipe_paths import follow_moved_folder
from orchestrator.config.sweep import Assignment, ResolvedSweep, Sweep, load_sweep
from orchestrator.config.yaml_text import to_yaml
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RECIPE_FILE, RunFolder, candidate_folders, json_bytes, read_json

SWEEP_FILE = "sweep.json"

TrialStatus = Literal["RUNNING", "PAUSED", "FINISHED", "STOPPED", "FAILED"]
"""STOPPED: early, by the scheduler or by a budget of the recipe. PAUSED: until the scheduler or a resumed
sweep resumes it."""


class SweepError(FuserayError):
    """A sweep is missing, or cannot be resumed."""


@dataclass(frozen=True, slots=True)
class Point:
    """The objectives that a trial reported after some samples.

    Args:
        samples: seen by then.
        values: of the objectives.
    """

    samples: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """The record of a trial.

    Args:
        number: of its configuration, from 0.
        replica: of the configuration, from 0.
        assignment: values of the searched keys.
        status: its state.
        points: its reports, by samples.
        reason: why it failed or was stopped; empty otherwise.
        started: ISO 8601 time.
        ended: ISO 8601 time; empty while it runs.
        run: the name of its run, which changes when it takes over a checkpoint; empty before its first report.
        start: the recipe's section `start` of that run; None when it does not start from another run's checkpoint.
    """

    number: int
    replica: int
    assignment: Assignment
    status: TrialStatus
    points: tuple[Point, ...] = ()
    reason: str = ""
    started: str = ""
    ended: str = ""
    run: str = ""
    start: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The trial's name."""
        return trial_name(self.number, self.replica)

    @property
    def is_over(self) -> bool:
        """Whether it has ended and will not be resumed."""
        return self.status in ("FINISHED", "STOPPED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFile:
    """The state of a sweep, as stored in its folder.

    Args:
        name: the sweep's name.
        created: ISO 8601 time of the first start.
        status: RUNNING, FINISHED, FAILED or KILLED, as in MLflow.
        ended: ISO 8601 time at which it last ended; empty while it runs.
        reason: why it was stopped before its end; empty otherwise.
        tracking_uri: MLflow's address, or 'environment'; a path is absolute.
        mlflow_run_id: the sweep's own run there, the parent of its trials' runs.
        trials: of the whole sweep.
        samples: of a trial that is trained to the end.
        working_folder: where it was first started; searched values that are relative paths are relative to it.
    """

    name: str
    created: str
    status: str
    tracking_uri: str
    mlflow_run_id: str
    trials: int
    samples: int
    ended: str = ""
    reason: str = ""
    working_folder: str = ""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """The folder of one sweep; it holds the folders of its trials' runs."""

    root: Location

    @property
    def spec(self) -> Location:
        """The sweep's YAML as it was started, which names the recipe in the same folder."""
        return self.root / "sweep.yaml"

    @property
    def recipe(self) -> Location:
        """The resolved recipe that all trials share."""
        return self.root / RECIPE_FILE

    @property
    def report(self) -> Location:
        """The report page."""
        return self.root / "report.html"

    @property
    def best(self) -> Location:
        """The recipe of the best configuration."""
        return self.root / "best.yaml"

    @property
    def costs(self) -> Location:
        """Holds a file per start of the sweep: which machines it had, and when."""
        return self.root / "costs"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a trial's run."""
        return RunFolder(self.root / name)

    def runs(self) -> dict[str, list[RunFolder]]:
        """Return all runs of every trial by its name; taking over a checkpoint (PBT) starts a new run."""
        runs: dict[str, list[RunFolder]] = {}
        for location in self.root.list():
            if match := RUN_NAME.fullmatch(location.name):
                runs.setdefault(match[1], []).append(RunFolder(location))
        return runs

    def exists(self) -> bool:
        """Return whether a sweep was started here."""
        return (self.root / SWEEP_FILE).size() is not None

    def read(self) -> SweepFile:
        """Return the sweep's state.

        Raises:
            SweepError: there is no sweep here, or its file is damaged.
        """
        location = self.root / SWEEP_FILE
        if location.size() is None:
            raise SweepError(f"{self.root.uri}: is not a sweep (no {SWEEP_FILE}); name a sweep's folder.")
        file = read_json(location, SweepFile, SweepError)
        return replace(file, tracking_uri=RunFolder(self.root).follow_move(file.tracking_uri))

    def write(self, file: SweepFile) -> None:
        """Replace the sweep's state."""
        (self.root / SWEEP_FILE).write(json_bytes(asdict(file)))

    def write_trial(self, record: TrialRecord) -> None:
        """Replace the record of a trial."""
        (self.root / "trials" / f"{record.name}.json").write(json_bytes(asdict(record)))

    def trials(self) -> list[TrialRecord]:
        """Return the records of all trials, by number and replica.

        Raises:
            SweepError: a file is damaged.
        """
        folder = self.root / "trials"
        files = [file for file in folder.list() if file.name.endswith(".json")] if folder.exists() else []
        records = [read_json(file, _trial_record, SweepError) for file in files]
        return sorted(records, key=lambda record: (record.number, record.replica))


RUN_NAME = re.compile(r"(trial-\d{4,}-\d+)(-from-[0-9a-f]+)?")


def find_sweep(name_or_uri: str, storage_uri: str, endpoint: str | None = None) -> SweepFolder:
    """Return the sweep that a user means: a name below a storage URI, or the URI or path of a sweep's folder.

    Raises:
        SweepError: there is no such sweep.
    """
    for sweep in map(SweepFolder, candidate_folders(name_or_uri, storage_uri, endpoint)):
        if sweep.exists():
            return sweep
    raise SweepError(
        f"no sweep {name_or_uri!r} below {storage_uri} and no sweep's folder of that name; "
        f"look into {storage_uri} for the sweeps there are, or name another location with --storage."
    )


def trial_name(number: int, replica: int) -> str:
    """Return the name of a trial, and of its first run."""
    return f"trial-{number:04d}-{replica}"


def _trial_record(points: Sequence[Mapping[str, Any]], **values: Any) -> TrialRecord:
    reports = tuple(Point(point["samples"], tuple(point["values"])) for point in points)
    return TrialRecord(points=reports, **values)


def store_sweep(folder: SweepFolder, sweep: ResolvedSweep) -> None:
    """Write a sweep's YAML and its resolved recipe into its folder."""
    _write_yaml(folder.recipe, sweep.base.to_dict())
    _write_yaml(folder.spec, sweep.sweep.model_dump(mode="json") | {"recipe": RECIPE_FILE})


def stored_sweep(folder: SweepFolder, overrides: Sequence[str] = ()) -> ResolvedSweep:
    """Read and validate the sweep that a folder holds.

    Args:
        folder: the sweep's folder.
        overrides: `key.path=value` of the sweep's own keys.

    Raises:
        ConfigError: it cannot be read.
        RecipeError: this version of Fuseray refuses it.
    """
    with TemporaryDirectory() as local:
        for file in (folder.recipe, folder.spec):
            Path(local, file.name).write_bytes(file.read())
        sweep = load_sweep(Path(local, folder.spec.name), overrides)
    root = folder.root
    recipe = follow_moved_folder(sweep.recipe({}), RunFolder(root).recorded_root(), root.path)
    return sweep.with_values_of(recipe)


def stored_section(folder: SweepFolder) -> Sweep:
    """Return the sections of the sweep that a folder holds; its recipe is not read.

    Raises:
        ConfigError: they cannot be read.
        RecipeError: this version of Fuseray refuses them.
    """
    document = Document.parse(folder.spec.read().decode(), folder.spec.uri)
    section = validate(Sweep, document.to_dict(), document)
    if isinstance(section, list):
        raise RecipeError(section)
    return section


def _write_yaml(file: Location, values: object) -> None:
    file.write(to_yaml(values).encode())
