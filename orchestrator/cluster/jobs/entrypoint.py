"""The command that a job runs, and the variables that it runs with."""

from __future__ import annotations

import shlex

from orchestrator.cluster.jobs.package import RECIPE_NAME

STOP_WAIT_S = 600
"""How long a stopped job may take for its last checkpoint before Ray kills it."""

ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
"""Variables of a job; anybody who may ask the job server can read them."""


def entrypoint(resume: str | None) -> str:
    """Return the shell command of a job.

    The shell is replaced by it, so that a signal reaches the run itself. The cluster's address is the one that Ray
    gives the job, in the variable RAY_ADDRESS.

    Args:
        resume: the run that must be there to be continued; None continues the recipe's own run if it is there.
    """
    words = ["python", "-m", "orchestrator.cli", "train", RECIPE_NAME]
    return f"exec {shlex.join([*words, '--resume', resume or 'auto', 'scale.address=auto'])}"
