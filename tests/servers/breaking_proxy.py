"""A TCP proxy that can cut all connections through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class BreakingProxy:
    """A running proxy.

    Args:
        target: port of the loopback where connections go.
        heard: is given what comes back through the proxy; when it says so, all connections are cut.
    """

    def __init__(self, target: int, heard: Callable[[bytes], bool]) -> None:
        self._target = target
        self._heard = heard
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection."""
        with self._lock:
            self.cuts += 1
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open += [client, server]
                for source, sink, watched in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._carry, args=(source, sink, watched), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if watched and self._heard(content):
                    self.cut()
                    return
                sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def breaking_proxy(target: int, heard: Callable[[bytes], bool] = lambda _: False) -> Iterator[BreakingProxy]:
    """Run a proxy in threads of this process."""
    proxy = BreakingProxy(target, heard)
    try:
        yield proxy
    finally:
        proxy.close()
