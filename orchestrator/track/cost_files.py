"""A run's record of its machines: a file for each start, which only that start writes, whole or not at all.

So a run that goes on knows what its earlier starts have used, nothing is entered twice however often a file is written,
and a driver that is killed loses what it had not yet written down: some seconds.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import json_bytes
from orchestrator.track.costs import Kind, Period, Start


class CostFileError(FuserayError):
    """A file of the record is damaged."""


def write_start(folder: Location, start: Start) -> None:
    """Write down what a start has used so far, in the place of what was written before.

    Raises:
        StorageError: it cannot be written.
    """
    kinds = list(dict.fromkeys(kind for period in start.periods for kind in period.nodes))
    values = {
        "begin_ms": start.begin_ms,
        "end_ms": start.end_ms,
        "share": start.share,
        "machines": [{"machine": one.machine, "market": one.market, "usd_per_hour": one.usd_per_hour} for one in kinds],
        "periods": [
            {
                "begin_ms": period.begin_ms,
                "end_ms": period.end_ms,
                "nodes": [period.nodes.get(kind, 0) for kind in kinds],
            }
            for period in start.periods
        ],
    }
    (folder / f"start-{start.begin_ms}.json").write(json_bytes(values))


def read_starts(folder: Location) -> list[Start]:
    """Return what all starts of a run have used; none of them when nothing was written down.

    Raises:
        CostFileError: a file is damaged.
        StorageError: the record cannot be read.
    """
    return [_read(file) for file in folder.list() if file.name.startswith("start-") and file.name.endswith(".json")]


def _read(file: Location) -> Start:
    try:
        values = json.loads(file.read())
        kinds = [Kind(**kind) for kind in values["machines"]]
        periods = tuple(_period(period, kinds) for period in values["periods"])
        return Start(int(values["begin_ms"]), int(values["end_ms"]), float(values["share"]), periods)
    except (ValueError, KeyError, TypeError) as error:
        raise CostFileError(
            f"{file.uri}: is damaged ({error}); move it away to go on as if that start had cost nothing."
        ) from error


def _period(values: dict[str, Any], kinds: list[Kind]) -> Period:
    nodes = {kind: int(count) for kind, count in zip(kinds, values["nodes"], strict=True) if count}
    return Period(int(values["begin_ms"]), int(values["end_ms"]), nodes)
