"""What a build remembers: of what it is made, what became of each shard, and which items it rejected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.storage.location import Location
from orchestrator.stream.building.build import RECEIPT_NAME
from orchestrator.stream.data_set.index import DataSetError
from orchestrator.stream.indexing.shard_facts import ShardFacts

REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that cannot be used: its number in the source, what it names, and why."""

    item: int
    key: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Part:
    """What became of the items of one shard.

    Args:
        number: of the shard.
        facts: of the shard; None when no item can be used, so that there is no shard.
        rejected: items that cannot be used.
    """

    number: int
    facts: ShardFacts | None
    rejected: tuple[Rejected, ...]

    @property
    def samples(self) -> int:
        """Samples in the shard."""
        return self.facts.samples if self.facts else 0

    def as_json(self) -> dict[str, Any]:
        """Return the part as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Part:
        """Return the part that plain values stand for."""
        facts = values["facts"] and ShardFacts(**values["facts"])
        return cls(values["number"], facts, tuple(Rejected(**one) for one in values["rejected"]))


@dataclass(frozen=True, slots=True)
class Receipt:
    """The file that says of what a folder of shards is made.

    Args:
        destination: the folder.
        made_of: what determines the shards.
    """

    destination: Location
    made_of: Mapping[str, str]

    def result(self) -> dict[str, Any] | None:
        """Return the result of a finished build, or None when it is not finished or not begun.

        Raises:
            DataSetError: the folder holds something else.
        """
        place = self.destination / RECEIPT_NAME
        if place.size() is None:
            self._refuse_strangers()
            return None
        try:
            found = json.loads(place.read())
            made_of, result = dict(found["source"]), dict(found.get("result", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise DataSetError(f"{place.uri}: is damaged ({error}); remove {self.destination.uri}.") from error
        changed = [name for name in self.made_of if made_of.get(name) != self.made_of[name]]
        if changed:
            differences = ", ".join(f"{name} {self.made_of[name]}, was {made_of.get(name)}" for name in changed)
            raise DataSetError(
                f"{self.destination.uri}: holds shards that are made of something else ({differences}); "
                "name another destination, or remove this one."
            )
        return result or None

    def write(self, result: Mapping[str, Any] | None) -> None:
        """Write the receipt of a build that begins (no result) or is finished."""
        content = {"source": dict(self.made_of)} | ({"result": dict(result)} if result else {})
        (self.destination / RECEIPT_NAME).write(json.dumps(content, indent=2, sort_keys=True).encode())

    def _refuse_strangers(self) -> None:
        files = sorted(self.destination.sizes())
        if files:
            raise DataSetError(
                f"{self.destination.uri}: is not empty ({files[0]}) and was not begun by this command; "
                "name another destination."
            )


def write_rejected(destination: Location, parts: Iterable[Part]) -> None:
    """List the rejected items, if there are any, in a file beside the shards."""
    ordered = sorted(parts, key=lambda part: part.number)
    lines = [json.dumps(asdict(one), ensure_ascii=True) + "\n" for part in ordered for one in part.rejected]
    if lines:
        (destination / REJECTED_NAME).write("".join(lines).encode())
    else:
        (destination / REJECTED_NAME).delete()
