"""What must not travel with a job: keys, credentials, caches and the history of the code."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from orchestrator.cluster.jobs.errors import PackageError

SECRET_NAMES = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.keystore", "*.jks"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker"),
    *("credentials", "credentials.json", ".credentials", ".git-credentials", ".netrc", "_netrc", ".pgpass", ".pypirc"),
    *(".npmrc", ".htpasswd"),
)
"""Files and folders that hold secrets by custom."""

LEFT_OUT = (
    *("__pycache__", "*.pyc", "*.pyo", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"),
    *(".git", ".hg", ".svn", ".DS_Store"),
)
"""Files and folders that no code needs."""

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY( BLOCK)?-----")
ADVICE = "move it out of the package, or the secret into a variable or file on the cluster's machines"


def is_left_out(name: str) -> bool:
    """Return whether a file or folder of a package stays here without a word."""
    return any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def check_name(name: str, place: str) -> None:
    """Refuse a file or folder that is a secret by its name; to leave it out would break code that reads it.

    Args:
        name: its last part.
        place: the whole path, for the message.

    Raises:
        PackageError: it is one.
    """
    if any(fnmatchcase(name.lower(), pattern) for pattern in SECRET_NAMES):
        raise PackageError(f"{place}: would travel to the cluster, and by its name it holds a secret; {ADVICE}.")


def check_content(content: bytes, place: str) -> None:
    """Refuse a file with a private key in it.

    Raises:
        PackageError: there is one.
    """
    if PRIVATE_KEY.search(content):
        raise PackageError(f"{place}: would travel to the cluster, and it holds a private key; {ADVICE}.")
