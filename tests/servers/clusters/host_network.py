"""A network of namespaces on this machine, which itself has an address in it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge with namespaces at it.

    Args:
        name: of the bridge; the namespaces' names begin with it.
        prefix: the first three bytes of all addresses.
    """

    name: str
    prefix: str

    @property
    def outside(self) -> str:
        """The address of this machine."""
        return f"{self.prefix}.1"

    def namespace(self, number: int) -> str:
        """Return the name of a namespace, counted from 1."""
        return f"{self.name}-{number}"

    def address(self, number: int) -> str:
        """Return the address in a namespace."""
        return f"{self.prefix}.{number + 1}"


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Set up a network and remove it again.

    Args:
        count: of the namespaces.
    """
    made = Network(f"fuse{secrets.token_hex(2)}", _unused_prefix())
    try:
        _ip("link", "add", made.name, "type", "bridge")
        _ip("address", "add", f"{made.outside}/24", "dev", made.name)
        _ip("link", "set", made.name, "up")
        for number in range(1, count + 1):
            _join(made, number)
        yield made
    finally:
        for number in range(1, count + 1):
            _ip("netns", "delete", made.namespace(number), check=False)
            _ip("link", "delete", made.namespace(number), check=False)
        _ip("link", "delete", made.name, check=False)


def inside(namespace: str, *command: str) -> list[str]:
    """Return the command that runs a command in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


def _join(made: Network, number: int) -> None:
    """Make a namespace with a cable to the bridge; its other end is called eth0."""
    namespace = made.namespace(number)
    _ip("netns", "add", namespace)
    _ip("link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("link", "set", namespace, "master", made.name, "up")
    _ip("-n", namespace, "address", "add", f"{made.address(number)}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    _ip("-n", namespace, "route", "add", "default", "via", made.outside)


def _unused_prefix() -> str:
    routes = subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    while True:
        prefix = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        if f"{prefix}." not in routes:
            return prefix


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
