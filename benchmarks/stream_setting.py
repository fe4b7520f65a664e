"""What the loaders have in common: the data, the transform, and the shape of a loader."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from workloads.contract import KeyedRandom, Sample, Transform


@dataclass(frozen=True, slots=True)
class Setting:
    """What every loader gets.

    Args:
        source: `local` or `s3`.
        shards: URI of the folder of tar shards and their index.
        shard_names: the tar files in it.
        chunks: URI of the same samples in LitData's format; empty when nobody asked for it.
        local_shards: the shards on the local disk.
        endpoint: address of the S3 server.
        samples: in one epoch.
        epochs: passes over the samples.
        batch_size: samples per micro-batch.
        cores: processes or CPUs that may decode.
        train_s: seconds for which training keeps a micro-batch.
    """

    source: str
    shards: str
    shard_names: tuple[str, ...]
    chunks: str
    local_shards: Path
    endpoint: str | None
    samples: int
    epochs: int
    batch_size: int
    cores: int
    train_s: float

    @property
    def total(self) -> int:
        """Samples to be delivered."""
        return self.samples * self.epochs


TRANSFORM_KEYS = {"model": {"preset": "base"}, "text": {"tokenizer": "minilm"}}
"""The recipe keys of ALBEF that its transform depends on: 256 pixels, RandAugment, a tokenizer from a package."""

Stream = Iterator[int]
"""Delivers micro-batches; each item is the number of samples that arrived."""

Loader = Callable[[Setting], AbstractContextManager[Callable[[], Stream]]]
"""Opens a loader; inside, what could be started before the data is named has been started: imports, Ray."""


def training_transform() -> Transform:
    """Return the training transform of ALBEF at 256 pixels, with RandAugment, as the recipes get it."""
    from orchestrator.config.loading import find_workload

    entry = find_workload("albef")
    return entry.transform(entry.config_type.model_validate(TRANSFORM_KEYS))


def draw_of(key: str, epoch: int = 0) -> KeyedRandom:
    """Return the randomness of one sample's augmentation, for loaders that bring none of their own."""
    return KeyedRandom((0, "transform", epoch, key))


def sample_of(key: str, image: bytes, about: bytes) -> Sample:
    """Build a sample from the contents of its two members in a shard."""
    return Sample(key, image, tuple(json.loads(about)["captions"]))


def stored_samples(setting: Setting) -> Iterator[Sample]:
    """Yield all samples of the local shards."""
    for name in setting.shard_names:
        with tarfile.open(setting.local_shards / name) as archive:
            contents = [(member.name, _content(archive, member)) for member in archive]
        for (image_name, image), (_, about) in zip(contents[::2], contents[1::2], strict=True):
            yield sample_of(image_name.partition(".")[0], image, about)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
