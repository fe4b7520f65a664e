"""`DecodedCache` reads images that were decoded before on this machine, and decodes and stores all others.

The key of an image is a hash of its bytes and the name of the decoding, so runs, data sets and shard formats share
equal images, and a change of a data set or a library cannot return stale pixels. A store that fails is disabled for
the process, which then decodes every image itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from orchestrator.storage.local_files import cache_home
from orchestrator.stream.image_cache.ring_file import Pixels
from orchestrator.stream.image_cache.store import Store
from workloads.contract import BadSample, StagedTransform

LOG = logging.getLogger(__name__)

FOLDER_VARIABLE = "FUSERAY_DECODED_CACHE"


@dataclass(frozen=True, slots=True)
class DecodedCache:
    """The cache of the machine that this is unpickled on; every process opens it on first use.

    Args:
        limit_mb: most disk space that it takes, in 10^6 bytes.
        timeout_s: how long to wait for another process that is decoding an image; after that it counts as stopped.
    """

    limit_mb: int
    timeout_s: float = 2.0

    def decode(self, images: Sequence[bytes], transform: StagedTransform) -> Iterator[tuple[int, Pixels | BadSample]]:
        """Yield every image's index and its pixels, or why it cannot be decoded, in any order.

        Images that other processes are decoding come last, so that concurrent runs divide the work.
        """
        in_flight = _InFlight(_store(self.limit_mb), transform)
        later = []
        for i, image in enumerate(images):
            pixels = in_flight.try_get(image)
            if pixels is None:
                later.append(i)
            else:
                yield i, pixels
        for i in later:
            pixels = in_flight.try_get(images[i], self.timeout_s)
            yield i, in_flight.decode(images[i]) if pixels is None else pixels


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Decodes images with one transform, each in one process at a time."""

    store: FailOpenStore
    transform: StagedTransform

    def try_get(self, image: bytes, timeout_s: float = 0.0) -> Pixels | BadSample | None:
        """Return an image from the store or decoded; None while another thread or process decodes it."""
        if not self.store.is_on:
            return self.decode(image)
        key = _key(self.transform.decoding, image)
        cached = self.store.read(key)
        return self._decode_alone(key, image, timeout_s) if cached is None else cached

    def decode(self, image: bytes) -> Pixels | BadSample:
        """Return an image decoded, without the store."""
        try:
            return self.transform.pixels(image)
        except BadSample as fault:
            return fault

    def _decode_alone(self, key: bytes, image: bytes, timeout_s: float) -> Pixels | BadSample | None:
        with self.store.claim(key, timeout_s) as acquired:
            if not acquired:
                return None
            cached = self.store.read(key)  # the previous holder of the claim may have stored it
            if cached is not None:
                return cached
            decoded = self.decode(image)
            if not isinstance(decoded, BadSample):
                self.store.write(key, decoded)
            return decoded


class FailOpenStore:
    """A store that fails open: its first error is logged and disables it, and then every read is a miss.

    Args:
        store: the store; None for one that could not be opened.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    @property
    def is_on(self) -> bool:
        """Whether the store is enabled: it was opened and has not failed."""
        return self._store is not None

    def read(self, key: bytes) -> Pixels | None:
        """Return an image, or None for a miss; see `Store.read`."""
        store = self._store
        if store is None:
            return None
        try:
            return store.read(key)
        except Exception as error:
            self._disable(store, error)
            return None

    @contextmanager
    def claim(self, key: bytes, timeout_s: float = 0.0) -> Iterator[bool]:
        """Claim the decoding of an image; see `Store.claim`. Yields True without a store."""
        store, acquired = self._store, True
        with ExitStack() as stack:
            if store is not None:
                try:
                    acquired = stack.enter_context(store.claim(key, timeout_s))
                except Exception as error:
                    self._disable(store, error)
            yield acquired

    def write(self, key: bytes, pixels: Pixels) -> None:
        """Store an image, if there is room; see `Store.write`."""
        store = self._store
        if store is None:
            return
        try:
            store.write(key, pixels)
        except Exception as error:
            self._disable(store, error)

    def _disable(self, store: Store, error: Exception) -> None:
        self._store = None
        warn_disabled(str(store.folder), error)


def warn_disabled(folder: str, error: Exception) -> None:
    """Log that this process continues without the cache."""
    LOG.warning(
        "the cache of decoded images in %s is off for this process, which decodes every image itself: %s. Free some "
        "space there, name another folder in FUSERAY_DECODED_CACHE, or set stream.decoded_cache_mb to 0.",
        folder,
        error,
    )


def cache_folder() -> Path:
    """Return the folder of this machine's cache: the one that FUSERAY_DECODED_CACHE names, or one in the user's cache.

    Raises:
        RuntimeError: the user has no home folder.
    """
    configured = os.environ.get(FOLDER_VARIABLE)
    return Path(configured).absolute() if configured else cache_home() / "decoded"


def _store(limit_mb: int) -> FailOpenStore:
    try:
        return _opened(cache_folder(), limit_mb)
    except RuntimeError:
        return _opened(None, limit_mb)


@lru_cache(maxsize=8)
def _opened(folder: Path | None, limit_mb: int) -> FailOpenStore:
    try:
        if folder is None:
            raise FileNotFoundError("this user has no home folder")
        store = Store(folder, limit_mb * 10**6)
    except OSError as error:
        warn_disabled(str(folder or "the user's cache folder"), error)
        return FailOpenStore(None)
    if store.capacity_bytes > limit_mb * 10**6:
        LOG.warning(
            "the cache of decoded images in %s has %d MB, which other running runs configured; stream."
            "decoded_cache_mb = %d takes effect when they have ended.",
            folder,
            store.capacity_bytes // 10**6,
            limit_mb,
        )
    return FailOpenStore(store)


def _key(decoding: str, image: bytes) -> bytes:
    digest = hashlib.sha256(decoding.encode() + b"\0")
    digest.update(image)
    return digest.digest()
