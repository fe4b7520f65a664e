"""Samples: as they are stored, as a transform turns them into arrays, and the draws of random numbers for both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Features = Mapping[str, np.ndarray]
"""One transformed sample: named arrays, each of the same shape and dtype for every sample."""


Batch = Mapping[str, "Tensor"]
"""A micro-batch: the features of its samples stacked along a new first dimension, on the worker's device."""


class BadSample(Exception):
    """A sample that cannot be used; it is skipped and counted, and no other sample moves.

    Args:
        reason: a short class of fault, counted by value (for example "image is truncated").
        detail: what exactly was found.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class KeyedRandom:
    """Randomness as a pure function of a key such as (seed, step, micro-batch, purpose).

    Equal keys give equal draws on every machine, whichever worker asks and however often.
    """

    key: tuple[int | str, ...]

    def child(self, *more: int | str) -> KeyedRandom:
        """Return the randomness of a longer key."""
        return KeyedRandom(self.key + more)

    def seed(self) -> int:
        """Return 63 bits derived from the key, for generators that want an integer."""
        return int.from_bytes(self._digest()[:8], "little") >> 1

    def numpy(self) -> np.random.Generator:
        """Return a fresh NumPy generator for this key."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self._digest(), dtype=np.uint64)))

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh torch generator for this key on a device."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed())

    def _digest(self) -> bytes:
        return hashlib.blake2b(repr(self.key).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its captions, as stored.

    Args:
        key: unique within its source.
        image: the encoded image file.
        captions: at least one.
        fields: all else that was stored with them (tags, concept, style ...).
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


class Transform(Protocol):
    """Turns a stored sample into features; runs on CPU workers, so it holds no model and pickles cheaply."""

    def __call__(self, sample: Sample, draw: KeyedRandom) -> Features:
        """Decode, augment and tokenise one sample.

        Raises:
            BadSample: when the sample cannot be used.
        """
        ...


@runtime_checkable
class StagedTransform(Transform, Protocol):
    """A transform whose decoding is a stage of its own, so that runs on one machine can share what it gives.

    `transform(sample, draw)` is `transform.finish(sample, transform.pixels(sample.image), draw)`, whatever these raise
    included. Offering the stages is optional.
    """

    @property
    def decoding(self) -> str:
        """The name of the decoding; another one whenever equal bytes may give other pixels (new code or libraries)."""
        ...

    def pixels(self, image: bytes) -> np.ndarray:
        """Decode an image file to contiguous uint8 [H, W, 3]; nothing but its bytes has a say.

        Raises:
            BadSample: when it cannot be decoded.
        """
        ...

    def finish(self, sample: Sample, pixels: np.ndarray, draw: KeyedRandom) -> Features:
        """Augment and tokenise one sample, given its pixels, which may be written into.

        Raises:
            BadSample: when the sample cannot be used.
        """
        ...
