"""How the verbs are told which cluster is meant: by a file, or by the name of one in ./clusters."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import click

FOLDER = Path("clusters")
SUFFIX = ".yaml"


def cluster_file(written: str) -> Path:
    """Return the file of the cluster that is meant: a path, or NAME for clusters/NAME.yaml. To be a parameter's `type`.

    Raises:
        click.BadParameter: there is none.
    """
    named = FOLDER / f"{written}{SUFFIX}"
    for candidate in (Path(written), named):
        if candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob(f"*{SUFFIX}"))
    near = get_close_matches(written, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"clusters here: {', '.join(names) or 'none'}."
    raise click.BadParameter(f"there is neither a file {written} nor {named}; {hint}")
