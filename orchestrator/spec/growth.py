"""What an autoscaling cluster can become, handed to whoever runs on it: Ray itself does not tell.

Whoever submits a run knows the cluster's file; the run's driver, on the cluster, does not. The variable
`FUSERAY_MACHINES` of the driver's environment carries the groups of machines from one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from orchestrator.spec.cluster import NodeGroup
from orchestrator.spec.errors import SpecError

MACHINES_VARIABLE = "FUSERAY_MACHINES"


def growth_variable(groups: Iterable[NodeGroup]) -> dict[str, str]:
    """Return the variable that tells a driver which machines its cluster can have."""
    return {MACHINES_VARIABLE: json.dumps([asdict(group) for group in groups], separators=(",", ":"))}


def read_growth(environment: Mapping[str, str]) -> tuple[NodeGroup, ...] | None:
    """Return the machines that the cluster can have, None when nobody said.

    Raises:
        SpecError: the variable holds something else.
    """
    text = environment.get(MACHINES_VARIABLE)
    if not text:
        return None
    try:
        return tuple(NodeGroup(**group) for group in json.loads(text))
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{MACHINES_VARIABLE}: does not list groups of machines ({error}); "
            "`fuseray submit` sets it, unset it otherwise."
        ) from error
