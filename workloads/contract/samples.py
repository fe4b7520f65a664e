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
        fields: all else that was stored with them (image_id, tags, concept, style ...).
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


IMAGE_ID_NAMES = ("image_id", "cocoid", "img_id", "imgid")
"""Fields that may hold a sample's image id, in order of preference: ALBEF's name, and those of Karpathy's splits."""


def declared_image_id(fields: Mapping[str, Any]) -> str:
    """Return the image id among a sample's fields as text; empty when there is none.

    Numbers and their digits are the same id, as files that name the same image have one here and the other there.

    Raises:
        BadSample: it is neither a whole number nor a text.
    """
    name, value = next(((name, fields[name]) for name in IMAGE_ID_NAMES if fields.get(name) is not None), ("", ""))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadSample("image id is not valid", f"{name} is {value!r}"[:80] + "; write a whole number or a text")
    return str(value)


def names_its_image(key: str, fields: Mapping[str, Any]) -> bool:
    """Return whether a sample says which image it is of: by an image id, or by a key that numbers an image's samples.

    Args:
        key: the sample's.
        fields: the sample's.

    Raises:
        BadSample: the image id is neither a whole number nor a text.
    """
    return bool(declared_image_id(fields)) or "#" in key


def image_number(key: str, fields: Mapping[str, Any]) -> int:
    """Return the number of a sample's image, in [0, 2^63): equal for samples of one image, and nothing else.

    It is a hash of the image id and of the field `dataset`, if there is one, so that data sets which number their
    images alike stay apart in a mixture. Without an image id the key stands for the image, up to the # that numbers
    its samples.

    Args:
        key: the sample's.
        fields: the sample's.

    Raises:
        BadSample: the image id is neither a whole number nor a text.
    """
    identity = declared_image_id(fields)
    parts = ("id", str(fields.get("dataset", "")), identity) if identity else ("key", key.partition("#")[0])
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little") >> 1


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
