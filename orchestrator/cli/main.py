"""The command `fuseray`."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.verbs import Verbs
from orchestrator.spec.errors import FuserayError, SpecError

VERBS = {
    "data": "Build image-text shards from a corpus.",
    "shards": "Build, index and check shards of your own.",
    "import-checkpoint": "Turn another project's checkpoint into one to train from.",
    "plan": "Say what a recipe will need of a cluster, what it costs, and what is in its way.",
    "train": "Train a recipe.",
    "sweep": "Search hyperparameters.",
    "submit": "Train a recipe on a cluster.",
    "jobs": "List the jobs that this machine submitted, or all jobs of a cluster.",
    "status": "Say how a job is doing.",
    "logs": "Show what a job wrote, or follow it.",
    "stop": "Stop a job with a last checkpoint.",
    "checkpoints": "List, verify, pin and prune a run's checkpoints.",
    "evaluate": "Measure a run's model on the held-out samples.",
    "up": "Start a cluster.",
    "down": "End a cluster.",
    "dashboard": "Make a cluster's dashboard available on this machine.",
    "sync": "Publish in MLflow what it lacks of a run.",
    "audit": "Check that a run used every sample exactly once.",
    "trace": "List the samples of a step, or the steps at which a metric jumped.",
    "report": "Write a run's report page.",
    "export": "Write a model for use elsewhere.",
    "watch-preemption": "Drain this machine's node in Ray when the cloud announces to take it away.",
    "doctor": "Check this machine and say how to mend what is wrong.",
}


@click.command(cls=Verbs, modules="orchestrator.cli.", about=VERBS)
@click.version_option(package_name="fuseray")
def cli() -> None:
    """Vision-language pre-training on Ray: one recipe, one cluster, exact resume."""


def main() -> None:
    """Run the command line: exit code 0 when done, 1 when something failed, 2 when what was asked for is wrong.

    Everything that was opened is closed by then, so the process leaves at once: threads of the libraries now and then
    abort the interpreter's own way out, which would hide the exit code.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    try:
        cli(standalone_mode=False)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except click.ClickException as error:
        error.show()
        return 2
    except SpecError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if not _explains_itself(error):
            raise
        click.echo(f"error: {error}", err=True)
        return 1
    return 0


def _explains_itself(error: Exception) -> bool:
    from workloads.contract import WorkloadError

    return isinstance(error, FuserayError | WorkloadError)
