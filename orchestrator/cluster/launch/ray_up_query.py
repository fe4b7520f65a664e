"""Asks Ray's launcher about one cluster and prints the answer as a line of JSON; see `head.find_head`."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

NOBODY = "not found"


def main() -> None:
    """Answer about the cluster whose file is the first argument."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(_answer(sys.argv[1])), file=answers, flush=True)


def _answer(file: str) -> dict[str, Any]:
    try:
        address = _address(file)
        return {"address": address, "auth": _auth(file) if address else {}}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _address(file: str) -> str | None:
    """Return the head's address, None when there is no head that was set up."""
    from ray.autoscaler.sdk import get_head_node_ip

    try:
        return str(get_head_node_ip(file))
    except RuntimeError as error:
        if NOBODY in str(error):
            return None
        raise


def _auth(file: str) -> dict[str, Any]:
    """Return the section `auth` with what the provider adds to it, such as the key that it made.

    Ray remembers it from `ray up`; where it does not, it works it out again.
    """
    import yaml
    from ray.autoscaler._private.commands import _bootstrap_config

    with open(file) as stream:
        config = _bootstrap_config(yaml.safe_load(stream))
    auth: dict[str, Any] = config["auth"]
    return auth


if __name__ == "__main__":
    main()
