"""Tunnels: programs that carry connections to a cluster for as long as a block of code runs."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.leashed import Leashed
from orchestrator.config.errors import FuserayError

OPEN_S = 60.0
LAST_BREATH_S = 1.0
KEPT_CHARACTERS = 1000
NOISE = re.compile(r"^Warning: Permanently added .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TunnelCommand:
    """A program that opens a tunnel.

    Args:
        command: the program and its arguments.
        ready: matches what it prints on standard output once the tunnel is open.
        purpose: what it is for, as in "the tunnel to cluster lab".
    """

    command: Sequence[str]
    ready: re.Pattern[str] = field(repr=False)
    purpose: str


@contextmanager
def tunnel(wanted: TunnelCommand, open_s: float = OPEN_S) -> Iterator[re.Match[str]]:
    """Hold a tunnel open while the body runs; give the body what matched when it opened.

    Args:
        wanted: the program.
        open_s: seconds that it may take to open the tunnel.

    Raises:
        ClusterError: it cannot be opened, or it broke and the body failed for that; in the program's own words.
    """
    with TemporaryFile() as said:
        program = Leashed(wanted.command, said)
        try:
            opened = _opened(program, wanted, said, open_s)
            threading.Thread(target=_drain, args=(program,), daemon=True).start()
            yield opened
        except FuserayError:
            raise
        except Exception as error:
            # A connection breaks a moment before the program that carried it is gone.
            if program.wait(LAST_BREATH_S) is None:
                raise
            raise ClusterError(f"{wanted.purpose} broke: {_words(said)}") from error
        finally:
            program.end()


def _opened(program: Leashed, wanted: TunnelCommand, said: IO[bytes], open_s: float) -> re.Match[str]:
    """Wait until it is open."""
    until_s = time.monotonic() + open_s
    heard = b""
    while select.select([program.output], [], [], max(0.0, until_s - time.monotonic()))[0]:
        piece = os.read(program.output.fileno(), 4096)
        if not piece:
            program.wait()
            raise ClusterError(f"{wanted.purpose} cannot be opened: {_words(said)}")
        heard += piece
        if found := wanted.ready.search(heard.decode(errors="replace")):
            return found
    raise ClusterError(f"{wanted.purpose} did not open within {open_s:g} s: {_words(said)}")


def _drain(program: Leashed) -> None:
    """Take what the program goes on to say, or it would stop when the pipe is full."""
    with program.output:
        while program.output.read(65536):
            pass


def _words(said: IO[bytes]) -> str:
    """Return what the program said last."""
    said.seek(0)
    text = NOISE.sub("", said.read().decode(errors="replace")).strip()
    return " ".join(text[-KEPT_CHARACTERS:].split()) or "it said nothing."
