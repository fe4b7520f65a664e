"""The command that a job runs, and the variables that it runs with."""

from __future__ import annotations

import shlex

from orchestrator.cluster.jobs.package import PRICES_NAME, RECIPE_NAME, SWEEP_NAME

STOP_WAIT_S = 600
"""How long a stopped job may take for its last checkpoint before Ray kills it."""

ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
"""Variables of a job; anybody who may ask the job server can read them."""


def entrypoint(resume: str | None, with_prices: bool = False) -> str:
    """Return the shell command of a job.

    The shell is replaced by it, so that a signal reaches the run itself. The cluster's address is the one that Ray
    gives the job, in the variable RAY_ADDRESS.

    Args:
        resume: the run that must be there to be continued; None continues the recipe's own run if it is there.
        with_prices: whether a table of prices travels with the job.
    """
    return _command("train", RECIPE_NAME, "--resume", resume or "auto", *_prices(with_prices), "scale.address=auto")


def sweep_entrypoint(with_prices: bool = False) -> str:
    """Return the shell command of a job that runs a sweep, or continues it; the sweep itself says where Ray is.

    Args:
        with_prices: whether a table of prices travels with the job.
    """
    return _command("sweep", SWEEP_NAME, "--resume", "auto", "--no-plan", *_prices(with_prices))


def _prices(with_prices: bool) -> list[str]:
    return ["--prices", PRICES_NAME] if with_prices else []


def _command(*words: str) -> str:
    return f"exec {shlex.join(['python', '-m', 'orchestrator.cli', *words])}"
