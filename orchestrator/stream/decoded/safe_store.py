"""A store that never fails whoever uses it: at its first fault it says so, and from then on keeps nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.stream.decoded.entry import Pixels
from orchestrator.stream.decoded.store import Store

LOG = logging.getLogger(__name__)


class SafeStore:
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
    def claim(self, key: bytes, patience_s: float = 0.0) -> Iterator[bool]:
        """Keep others from decoding an image; see `Store.claim`."""
        store, mine = self._store, True
        with ExitStack() as stack:
            if store is not None:
                try:
                    mine = stack.enter_context(store.claim(key, patience_s))
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
        warn_off(str(store.folder), error)


def warn_off(folder: str, error: Exception) -> None:
    """Say that a process goes on without the cache."""
    LOG.warning(
        "the cache of decoded images in %s is off for this process, which decodes every image itself: %s. Make room "
        "there, name another folder in FUSERAY_DECODED_CACHE, or set stream.decoded_cache_mb to 0.",
        folder,
        error,
    )
