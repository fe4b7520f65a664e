"""The command `fuseray`."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.cli.verbs import Verbs
from orchestrator.config.errors import FuserayError, SpecError

VERBS = {
    "data": ("orchestrator.cli.data:command", "Build image-text shards from a corpus."),
    "shards": ("orchestrator.cli.shards:command", "Build, index and check shards of your own."),
    "import-checkpoint": (
        "orchestrator.cli.import_checkpoint:command",
        "Turn another project's checkpoint into one to train from.",
    ),
    "plan": (
        "orchestrator.cli.plan:command",
        "Say what a recipe will need of a cluster, what it costs, and what is in its way.",
    ),
    "train": ("orchestrator.cli.train:command", "Train a recipe."),
    "sweep": ("orchestrator.cli.sweep:command", "Search hyperparameters."),
    "submit": ("orchestrator.cli.submit:command", "Train a recipe on a cluster."),
    "jobs": ("orchestrator.cli.jobs:command", "List the jobs that this machine submitted, or all jobs of a cluster."),
    "status": ("orchestrator.cli.status:command", "Say how a job is doing."),
    "logs": ("orchestrator.cli.logs:command", "Show what a job wrote, or follow it."),
    "stop": ("orchestrator.cli.stop:command", "Stop a job with a last checkpoint."),
    "checkpoints": ("orchestrator.cli.checkpoints:command", "List, verify, pin and prune a run's checkpoints."),
    "evaluate": ("orchestrator.cli.evaluate:command", "Measure a run's model on the held-out samples."),
    "up": ("orchestrator.cli.up:command", "Start a cluster."),
    "down": ("orchestrator.cli.down:command", "End a cluster."),
    "dashboard": ("orchestrator.cli.dashboard:command", "Make a cluster's dashboard available on this machine."),
    "sync": ("orchestrator.cli.sync:command", "Publish in MLflow what it lacks of a run."),
    "audit": ("orchestrator.cli.audit:command", "Check that a run used every sample exactly once."),
    "trace": ("orchestrator.cli.trace:command", "List the samples of a step, or the steps at which a metric jumped."),
    "report": ("orchestrator.cli.report:command", "Write a run's report page."),
    "export": ("orchestrator.cli.export:command", "Write a model for use elsewhere."),
    "watch-preemption": (
        "orchestrator.cli.watch_preemption:command",
        "Drain this machine's node in Ray when the cloud announces to take it away.",
    ),
    "doctor": ("orchestrator.cli.doctor:command", "Check this machine and say how to mend what is wrong."),
}


@click.command(cls=Verbs, verbs=VERBS)
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
