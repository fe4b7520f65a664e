"""Keeps the features of an evaluation in one process: in memory up to a limit, the rest in files."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import numpy as np

from workloads.contract import FeatureName

FeatureStore = MutableMapping[FeatureName, np.ndarray]
"""Arrays by block and name."""


class SpillingFeatures(MutableMapping[FeatureName, np.ndarray]):
    """Arrays in memory up to a limit; the others are memory-mapped files, so that the system may drop their pages.

    As a context manager, it removes its files.

    Args:
        limit_bytes: how much stays in memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._folder: TemporaryDirectory[str] | None = None
        self._arrays: dict[FeatureName, np.ndarray] = {}
        self._files: dict[FeatureName, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def __getitem__(self, key: FeatureName) -> np.ndarray:
        """Return an array; one from a file is mapped anew, so that nothing keeps its pages."""
        if key in self._arrays:
            return self._arrays[key]
        array: np.ndarray = np.load(self._files[key], mmap_mode="r", allow_pickle=False)
        return array

    def __setitem__(self, key: FeatureName, array: np.ndarray) -> None:
        """Keep an array."""
        self.pop(key, None)
        if array.nbytes <= self._free_bytes:
            self._free_bytes -= array.nbytes
            self._arrays[key] = array
            return
        self._folder = self._folder or TemporaryDirectory(prefix="fuseray-features-")
        block, name = key
        file = Path(self._folder.name) / f"{block:08d}-{name}.npy"
        np.save(file, array, allow_pickle=False)
        self._files[key] = file

    def __delitem__(self, key: FeatureName) -> None:
        """Drop an array."""
        if key in self._arrays:
            self._free_bytes += self._arrays.pop(key).nbytes
        else:
            self._files.pop(key).unlink()

    def __iter__(self) -> Iterator[FeatureName]:
        """Yield the names."""
        yield from self._arrays
        yield from self._files

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._arrays) + len(self._files)
