"""Names that become names of folders."""

from __future__ import annotations

import re


def folder_name(name: str) -> str:
    """Return a name that can be a folder's.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("must be 1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit")
    return name
