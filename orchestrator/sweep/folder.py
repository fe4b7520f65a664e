"""A sweep's folder in storage: what was searched, and what became of every trial."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml

from orchestrator.config.document import Document
from orchestrator.config.errors import FuserayError, RecipeError
from orchestrator.config.loading import validate
from orchestrator.config.sweep import Assignment, ResolvedSweep, Sweep, load_sweep
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RECIPE_FILE, RunFolder, json_bytes, meant_places

SWEEP_FILE = "sweep.json"

Status = Literal["RUNNING", "PAUSED", "FINISHED", "STOPPED", "FAILED"]
"""STOPPED: early, by the scheduler or by a budget of the recipe. PAUSED: it goes on when its turn comes, or when the
sweep is continued."""


class SweepError(FuserayError):
    """A sweep is missing, or cannot be continued."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a trial reported.

    Args:
        samples: that it had seen.
        values: of the objectives.
    """

    samples: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """What is known of a trial.

    Args:
        number: of its configuration.
        replica: of the configuration.
        assignment: values of the searched keys.
        status: how it is.
        points: what it reported, by samples.
        reason: why it failed or was stopped; empty otherwise.
        started: ISO 8601.
        ended: ISO 8601, empty while it runs.
        run: the name of its run, which is another one after it took over a checkpoint; empty before its first report.
        start: the recipe's section `start` of that run; None when it does not start from another run's checkpoint.
    """

    number: int
    replica: int
    assignment: Assignment
    status: Status
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
        """Whether nothing more will come of it."""
        return self.status in ("FINISHED", "STOPPED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFile:
    """What a sweep remembers about itself.

    Args:
        name: the sweep's name.
        created: ISO 8601 time of the first start.
        status: RUNNING, FINISHED, FAILED or KILLED, as in MLflow.
        ended: ISO 8601 time at which it last ended; empty while it runs.
        reason: why it was stopped before its end; empty otherwise.
        tracking_uri: MLflow's address.
        mlflow_run_id: the sweep's own run there; those of its trials are below it.
        trials: how many trials the whole sweep has.
        samples: that a whole trial sees.
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


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """The folder of one sweep; every trial's run is a folder in it."""

    root: Location

    @property
    def spec(self) -> Location:
        """The sweep's YAML as it was started, which names the recipe beside it."""
        return self.root / "sweep.yaml"

    @property
    def recipe(self) -> Location:
        """The recipe that all trials share, complete."""
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
        """Return the runs of every trial by its name, those too that its later runs took over from."""
        found: dict[str, list[RunFolder]] = {}
        for place in self.root.list():
            if name := RUN_NAME.fullmatch(place.name):
                found.setdefault(name[1], []).append(RunFolder(place))
        return found

    def exists(self) -> bool:
        """Return whether a sweep was started here."""
        return (self.root / SWEEP_FILE).size() is not None

    def read(self) -> SweepFile:
        """Return what the sweep remembers.

        Raises:
            SweepError: there is no sweep here, or its file is damaged.
        """
        place = self.root / SWEEP_FILE
        if place.size() is None:
            raise SweepError(f"{self.root.uri}: is not a sweep (no {SWEEP_FILE}); name a sweep's folder.")
        try:
            return SweepFile(**json.loads(place.read()))
        except (json.JSONDecodeError, TypeError) as error:
            raise SweepError(f"{place.uri}: is damaged ({error}).") from error

    def write(self, file: SweepFile) -> None:
        """Remember."""
        (self.root / SWEEP_FILE).write(json_bytes(asdict(file)))

    def keep(self, record: TrialRecord) -> None:
        """Write what is known of a trial in place of what was."""
        (self.root / "trials" / f"{record.name}.json").write(json_bytes(asdict(record)))

    def trials(self) -> list[TrialRecord]:
        """Return what is known of all trials, by number and replica.

        Raises:
            SweepError: a file is damaged.
        """
        folder = self.root / "trials"
        places = [place for place in folder.list() if place.name.endswith(".json")] if folder.exists() else []
        return sorted(map(_read_trial, places), key=lambda one: (one.number, one.replica))


RUN_NAME = re.compile(r"(trial-\d{4,}-\d+)(-from-[0-9a-f]+)?")


def find_sweep(name_or_uri: str, storage_uri: str, endpoint: str | None = None) -> SweepFolder:
    """Return the sweep that a user means: a name below a storage URI, or the URI or path of a sweep's folder.

    Raises:
        SweepError: there is no such sweep.
    """
    for sweep in map(SweepFolder, meant_places(name_or_uri, storage_uri, endpoint)):
        if sweep.exists():
            return sweep
    raise SweepError(
        f"no sweep {name_or_uri!r} below {storage_uri} and no sweep's folder of that name; "
        f"look into {storage_uri} for the sweeps there are, or name another place with --storage."
    )


def trial_name(number: int, replica: int) -> str:
    """Return the name of a trial, and of its run as long as it does not take over another's checkpoint."""
    return f"trial-{number:04d}-{replica}"


def _read_trial(place: Location) -> TrialRecord:
    try:
        values = json.loads(place.read())
        points = tuple(Point(one["samples"], tuple(one["values"])) for one in values.pop("points"))
        return TrialRecord(**values | {"points": points})
    except (ValueError, TypeError, KeyError) as error:
        raise SweepError(f"{place.uri}: is damaged ({error}).") from error


# A sweep's YAML and recipe in its folder, so that it can be continued and reported without the files it came from.


def store_sweep(folder: SweepFolder, sweep: ResolvedSweep) -> None:
    """Write a sweep and its recipe into its folder; what the recipe extends is resolved."""
    _write(folder.recipe, sweep.base.to_dict())
    _write(folder.spec, sweep.sweep.model_dump(mode="json") | {"recipe": RECIPE_FILE})


def stored_sweep(folder: SweepFolder, overrides: Sequence[str] = ()) -> ResolvedSweep:
    """Return the sweep that a folder holds, checked anew.

    Args:
        folder: the sweep's folder.
        overrides: `key.path=value` over the sweep's own keys.

    Raises:
        ConfigError: it cannot be read.
        RecipeError: this version of Fuseray refuses it.
    """
    with TemporaryDirectory() as here:
        for place in (folder.recipe, folder.spec):
            Path(here, place.name).write_bytes(place.read())
        return load_sweep(Path(here, folder.spec.name), overrides)


def plain_yaml(values: object) -> str:
    """Return plain values as YAML."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def stored_section(folder: SweepFolder) -> Sweep:
    """Return the sections of the sweep that a folder holds; its recipe is not looked at.

    Raises:
        ConfigError: they cannot be read.
        RecipeError: this version of Fuseray refuses them.
    """
    document = Document.parse(folder.spec.read().decode(), folder.spec.uri)
    section = validate(Sweep, document.to_dict(), document)
    if isinstance(section, list):
        raise RecipeError(section)
    return section


def _write(place: Location, values: object) -> None:
    place.write(plain_yaml(values).encode())
