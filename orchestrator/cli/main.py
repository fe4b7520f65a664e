"""The command `fuseray`: its verbs, which are imported only when they are used, and its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.proxies import keep_loopback_direct


class LazyGroup(click.Group):
    """A group that imports a verb's module only when the verb is used.

    Args:
        verbs: where each verb's click command is, as `module:name`, and what the verb does, in the order of a
            user's first steps.
    """

    def __init__(self, verbs: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(**options)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a user's first steps."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in self._verbs:
            return None
        module, _, name = self._verbs[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, about) for verb, (_, about) in self._verbs.items()])


VERBS = {
    "data": ("orchestrator.cli.data:command", "Build image-text shards from a corpus."),
    "shards": ("orchestrator.cli.shards.build:command", "Build, index and check shards of your own."),
    "import-checkpoint": (
        "orchestrator.cli.models:import_command",
        "Turn another project's checkpoint into one to train from.",
    ),
    "recipes": ("orchestrator.cli.files:recipes_command", "List the recipes and sweeps to start from, or copy one."),
    "clusters": ("orchestrator.cli.files:clusters_command", "List the cluster files to start from, or copy one."),
    "plan": (
        "orchestrator.cli.plan:command",
        "Estimate a recipe's needs and cost on a cluster, and check that it can run.",
    ),
    "train": ("orchestrator.cli.train:command", "Train a recipe."),
    "sweep": ("orchestrator.cli.sweep.run:command", "Search hyperparameters."),
    "submit": ("orchestrator.cli.cluster.submit:command", "Train a recipe on a cluster."),
    "jobs": (
        "orchestrator.cli.cluster.jobs:jobs_command",
        "List the jobs that this machine submitted, or all jobs of a cluster.",
    ),
    "status": ("orchestrator.cli.cluster.jobs:status_command", "Show the status of a job."),
    "logs": ("orchestrator.cli.cluster.jobs:logs_command", "Show what a job wrote, or follow it."),
    "stop": ("orchestrator.cli.cluster.jobs:stop_command", "Stop a job with a last checkpoint."),
    "checkpoints": ("orchestrator.cli.checkpoints:command", "List, verify, pin and prune a run's checkpoints."),
    "evaluate": ("orchestrator.cli.evaluate:command", "Measure a run's model on the held-out samples."),
    "up": ("orchestrator.cli.cluster.lifecycle:up_command", "Start a cluster."),
    "down": ("orchestrator.cli.cluster.lifecycle:down_command", "End a cluster."),
    "dashboard": (
        "orchestrator.cli.cluster.lifecycle:dashboard_command",
        "Make a cluster's dashboard available on this machine.",
    ),
    "sync": ("orchestrator.cli.inspect:sync_command", "Publish in MLflow what it lacks of a run."),
    "audit": ("orchestrator.cli.inspect:audit_command", "Check that a run used every sample exactly once."),
    "trace": (
        "orchestrator.cli.inspect:trace_command",
        "List the samples of a step, or the steps at which a metric jumped.",
    ),
    "report": ("orchestrator.cli.inspect:report_command", "Write a run's report page."),
    "export": ("orchestrator.cli.models:export_command", "Write a model for use elsewhere."),
    "watch-preemption": (
        "orchestrator.cli.watch_preemption:command",
        "Drain this machine's Ray node on a preemption notice of the cloud.",
    ),
    "doctor": ("orchestrator.cli.doctor:command", "Check this machine and print how to fix what is wrong."),
}


@click.command(cls=LazyGroup, verbs=VERBS)
@click.version_option(package_name="fuseray")
def cli() -> None:
    """Vision-language pre-training on Ray: one recipe, one cluster, exact resume."""


def main() -> None:
    """Run the command line: exit code 0 when done, 1 when something failed, 2 when the input is wrong.

    Exits with `os._exit`, since everything is closed by then: threads of the libraries sometimes abort the
    interpreter's own shutdown, which would hide the exit code.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    keep_loopback_direct()
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    try:
        cli(standalone_mode=False)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except click.ClickException as error:
        error.show()
        return 2
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if not _is_user_error(error):
            raise
        click.echo(f"error: {error}", err=True)
        return 1
    return 0


def _is_user_error(error: Exception) -> bool:
    from workloads.contract import WorkloadError

    return isinstance(error, FuserayError | WorkloadError)
