"""Hosts with a network, folders, processes and an SSH server of their own, all on this machine.

They share the machine's file system except /tmp, /var/tmp, /run, /root and /dev/shm, and this machine is their outside.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from host_network import Network, inside, network
from processes import running

PROGRAMS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
}
"""What hosts need, and the Debian packages that have it."""

OWN_FOLDERS = ("/tmp", "/var/tmp", "/run", "/root", "/dev/shm")  # noqa: S108
CHECKOUT = Path(__file__).parents[3]
INIT = Path(__file__).with_name("host.sh")
COMMAND_S = 300.0

SSHD = """\
AddressFamily inet
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PidFile none
MaxStartups 100
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A running host.

    Args:
        name: its host name.
        address: in the network.
        namespace: its network namespace.
        key: private key that its SSH server accepts for root.
        first_pid: its first process, as this machine sees it.
    """

    name: str
    address: str
    namespace: str
    key: Path
    first_pid: int

    def run(self, command: str, text: str = "") -> str:
        """Run a command by SSH and return what it says.

        Args:
            command: as the host's shell takes it.
            text: for its standard input.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run([*self.ssh(), command], input=text, capture_output=True, text=True, timeout=COMMAND_S)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {command}: {done.stdout}{done.stderr}")
        return done.stdout

    def processes(self) -> list[str]:
        """Return the command lines of its processes, but those of the SSH server."""
        space = os.readlink(f"/proc/{self.first_pid}/ns/pid")
        lines = [" ".join(one.info["cmdline"] or ()) for one in _processes() if _space_of(one.pid) == space]
        return [line for line in lines if line and "sshd" not in line.split(":")[0]]

    def shared_memory(self) -> list[str]:
        """Return the names of what lies in its shared memory."""
        return sorted(os.listdir(f"/proc/{self.first_pid}/root/dev/shm"))

    def cut_off(self) -> None:
        """Let nothing in or out any more; nobody is told."""
        for chain, way in (("INPUT", "-i"), ("OUTPUT", "-o")):
            self._firewall("-I", chain, "!", way, "lo", "-j", "DROP")

    def restore(self) -> None:
        """Let everything in and out again."""
        self._firewall("-F")

    def _firewall(self, *rule: str) -> None:
        subprocess.run(inside(self.namespace, "iptables", *rule), check=True, capture_output=True)

    def ssh(self) -> list[str]:
        """Return the beginning of an SSH command to it."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        flags = [flag for option in options for flag in ("-o", option)]
        return ["ssh", "-i", str(self.key), *flags, f"root@{self.address}"]


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts that reach each other.

    Args:
        outside: address of this machine for them.
        key: private key for all of them.
        all: the hosts.
    """

    outside: str
    key: Path
    all: Sequence[Host] = field(default_factory=list)


def why_no_hosts() -> str | None:
    """Return why there can be no hosts on this machine, and what to do about it; None when there can be."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "hosts are made of Linux namespaces, which takes Linux and root"
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        return f"hosts need packages: apt-get install {' '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True)
    return f"this machine makes no namespaces: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def hosts(count: int, shared_memory: str = "200m") -> Iterator[Hosts]:
    """Run hosts; with them go all their processes and files.

    Args:
        count: how many.
        shared_memory: size of the shared memory of each, as mount takes it.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="hosts-")))
        net = stack.enter_context(network(count))
        key = _make_key(folder / "key")
        names = [(net.address(number), f"host-{number}") for number in range(1, count + 1)]
        book = "".join(f"{address} {name}\n" for address, name in [("127.0.0.1", "localhost"), *names])
        all_hosts = []
        for number, (address, name) in enumerate(names, 1):
            own = _write_files(folder / name, key, book)
            first_pid = stack.enter_context(_started(net, number, name, own, shared_memory))
            all_hosts.append(Host(name, address, net.namespace(number), key, first_pid))
        yield Hosts(net.outside, key, all_hosts)


@contextmanager
def _started(net: Network, number: int, name: str, folder: Path, shared_memory: str) -> Iterator[int]:
    """Run a host; yields the id of its first process."""
    own = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    first = ["sh", str(INIT), name, str(folder), shared_memory, *map(str, _kept(folder))]

    def ready() -> None:
        socket.create_connection((net.address(number), 22), timeout=1).close()

    with running(inside(net.namespace(number), *own, *first), {}, folder.with_suffix(".log"), ready) as pid:
        yield psutil.Process(pid).children()[0].pid


def _kept(folder: Path) -> list[Path]:
    """Return what a host's own folders would hide of what it needs: this Python, this checkout and the host's files."""
    base = Path(sys.base_prefix)
    needed = {folder, CHECKOUT, Path(sys.prefix), base, base.resolve(), CHECKOUT.resolve(), Path(sys.prefix).resolve()}
    hidden = {path for path in needed if any(path.is_relative_to(own) for own in OWN_FOLDERS)}
    return sorted(path for path in hidden if not any(path != one and path.is_relative_to(one) for one in hidden))


def _write_files(folder: Path, key: Path, book: str) -> Path:
    folder.mkdir()
    _make_key(folder / "host_key")
    shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    (folder / "hosts").write_text(book)
    (folder / "resolv.conf").write_text("")
    return folder


def _make_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def _processes() -> list[psutil.Process]:
    return list(psutil.process_iter(["cmdline"]))


def _space_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
