"""The cache of decoded images: what has been decoded on this machine is read, all else is decoded and kept.

Images are known by their bytes and the name of the decoding, so runs, data sets and shard formats share whatever is
equal, and a data set or a library that changes cannot bring wrong pixels back.
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

# A store that never fails whoever uses it: at its first fault it says so, and from then on keeps nothing.


class FailOpenStore:
    """Does what a store does, and nothing once that has failed.

    Args:
        store: the store; None for one that could not be opened.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    @property
    def is_on(self) -> bool:
        """Whether the store has not failed yet."""
        return self._store is not None

    def read(self, key: bytes) -> Pixels | None:
        """Return an image, or None; see `Store.read`."""
        store = self._store
        if store is None:
            return None
        try:
            return store.read(key)
        except Exception as error:
            self._switch_off(store, error)
            return None

    @contextmanager
    def claim(self, key: bytes, timeout_s: float = 0.0) -> Iterator[bool]:
        """Keep others from decoding an image; see `Store.claim`."""
        store, mine = self._store, True
        with ExitStack() as stack:
            if store is not None:
                try:
                    mine = stack.enter_context(store.claim(key, timeout_s))
                except Exception as error:
                    self._switch_off(store, error)
            yield mine

    def write(self, key: bytes, pixels: Pixels) -> None:
        """Keep an image, if there is room; see `Store.write`."""
        store = self._store
        if store is None:
            return
        try:
            store.write(key, pixels)
        except Exception as error:
            self._switch_off(store, error)

    def _switch_off(self, store: Store, error: Exception) -> None:
        self._store = None
        warn_and_disable(str(store.folder), error)


def warn_and_disable(folder: str, error: Exception) -> None:
    """Say that a process goes on without the cache."""
    LOG.warning(
        "the cache of decoded images in %s is off for this process, which decodes every image itself: %s. Make room "
        "there, name another folder in FUSERAY_DECODED_CACHE, or set stream.decoded_cache_mb to 0.",
        folder,
        error,
    )


# The cache of decoded images: what has been decoded on this machine is read, all else is decoded and kept.


LOG = logging.getLogger(__name__)
FOLDER_VARIABLE = "FUSERAY_DECODED_CACHE"


@dataclass(frozen=True, slots=True)
class DecodedCache:
    """The cache of whichever machine this is on; every process opens it when it first needs it.

    Args:
        limit_mb: that it may take on the machine's disk, in 10^6 bytes.
        timeout_s: how long to wait for somebody else who is decoding an image; who takes longer has been stopped.
    """

    limit_mb: int
    timeout_s: float = 2.0

    def decode(self, images: Sequence[bytes], transform: StagedTransform) -> Iterator[tuple[int, Pixels | BadSample]]:
        """Yield every image's place among the given ones and its pixels, or what is wrong with it, in any order.

        What somebody else is decoding at the moment comes last: runs that want the same images at the same time share
        them out between them.
        """
        turn = _InFlight(_store(self.limit_mb), transform)
        later = []
        for place, image in enumerate(images):
            found = turn.take(image)
            if found is None:
                later.append(place)
            else:
                yield place, found
        for place in later:
            found = turn.take(images[place], self.timeout_s)
            yield place, turn.decode(images[place]) if found is None else found


@dataclass(frozen=True, slots=True)
class _InFlight:
    """One transform at work on some images."""

    store: FailOpenStore
    transform: StagedTransform

    def take(self, image: bytes, timeout_s: float = 0.0) -> Pixels | BadSample | None:
        """Return an image read or decoded; None while somebody else decodes it."""
        if not self.store.is_on:
            return self.decode(image)
        key = _key(self.transform.decoding, image)
        found = self.store.read(key)
        return self._decode_alone(key, image, timeout_s) if found is None else found

    def decode(self, image: bytes) -> Pixels | BadSample:
        """Return an image decoded, kept from nobody and for nobody."""
        try:
            return self.transform.pixels(image)
        except BadSample as fault:
            return fault

    def _decode_alone(self, key: bytes, image: bytes, timeout_s: float) -> Pixels | BadSample | None:
        with self.store.claim(key, timeout_s) as mine:
            if not mine:
                return None
            kept = self.store.read(key)  # by whoever had the claim before
            if kept is not None:
                return kept
            decoded = self.decode(image)
            if not isinstance(decoded, BadSample):
                self.store.write(key, decoded)
            return decoded


def cache_folder() -> Path:
    """Return where this machine's cache lies: the folder that FUSERAY_DECODED_CACHE names, or one in the user's cache.

    Raises:
        RuntimeError: the user has no home.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given).absolute() if given else cache_home() / "decoded"


def _store(limit_mb: int) -> FailOpenStore:
    try:
        return _opened(cache_folder(), limit_mb)
    except RuntimeError:
        return _opened(None, limit_mb)


@lru_cache(maxsize=8)
def _opened(folder: Path | None, limit_mb: int) -> FailOpenStore:
    try:
        if folder is None:
            raise FileNotFoundError("this user has no home")
        store = Store(folder, limit_mb * 10**6)
    except OSError as error:
        warn_and_disable(str(folder or "the user's cache folder"), error)
        return FailOpenStore(None)
    if store.capacity_bytes > limit_mb * 10**6:
        LOG.warning(
            "the cache of decoded images in %s has %d MB, which other runs that use it asked for; stream."
            "decoded_cache_mb = %d counts when they have ended.",
            folder,
            store.capacity_bytes // 10**6,
            limit_mb,
        )
    return FailOpenStore(store)


def _key(decoding: str, image: bytes) -> bytes:
    digest = hashlib.sha256(decoding.encode() + b"\0")
    digest.update(image)
    return digest.digest()
