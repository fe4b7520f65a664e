"""A real SSH server for one user with one key. It has no port: the client starts it as its proxy, as inetd would."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


@dataclass(frozen=True, slots=True)
class SshServer:
    """The server.

    Args:
        user: who may log in.
        key: file with the private key that opens it.
        host_key: file with its own private key.
        proxy: command that a client reaches it through.
    """

    user: str
    key: Path
    host_key: Path
    proxy: str


def missing() -> str | None:
    """Return why there can be no SSH server here, None when there can."""
    lacking = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None] + ([] if SSHD else ["sshd"])
    return f"needs {', '.join(lacking)}; install openssh-server" if lacking else None


def new_key(file: Path) -> Path:
    """Make a key pair and return the private one."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def ssh_server(folder: Path) -> SshServer:
    """Make a server whose files are in a folder."""
    key, host_key = new_key(folder / "key"), new_key(folder / "host")
    shutil.copy(key.with_suffix(".pub"), folder / "authorized")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    lines = (
        f"HostKey {host_key}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin prohibit-password",
    )
    (folder / "config").write_text("\n".join(lines) + "\n")
    return SshServer(getpass.getuser(), key, host_key, f"{SSHD} -i -f {folder / 'config'} -E {folder / 'log'}")
