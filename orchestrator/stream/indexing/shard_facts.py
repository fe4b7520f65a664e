"""What an index says of one shard, and an index from what it says of all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.stream.data_set.index import DIGEST_BYTES, Index, Names, ShardFormat


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What an index says of one shard.

    Args:
        shard: its file name.
        samples: how many it has.
        bytes: its size.
        digest: BLAKE2b digest of the file, in hexadecimal.
    """

    shard: str
    samples: int
    bytes: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return asdict(self)


def index_of(facts: Iterable[ShardFacts], shard_format: ShardFormat, columns: Mapping[str, str]) -> Index:
    """Return the index of some shards, in that order."""
    shards = tuple(facts)
    digests = b"".join(bytes.fromhex(one.digest) for one in shards)
    return Index(
        Names(one.shard for one in shards),
        np.array([one.samples for one in shards], np.int64),
        np.array([one.bytes for one in shards], np.int64),
        np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        shard_format,
        columns,
    )


def digest_of(content: bytes) -> str:
    """Return the digest of a shard, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
