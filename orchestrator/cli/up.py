"""`fuseray up CLUSTER`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.asking_first import ask_first
from orchestrator.cli.cluster_argument import cluster_file


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(cluster: Path, yes: bool) -> None:
    """Start a cluster; what is there already stays.

    CLUSTER is a YAML file, or NAME for clusters/NAME.yaml. The cluster goes on without this terminal, and costs what it
    costs, until `fuseray down CLUSTER`.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    launcher = launcher_of(read)
    ask_first(read, f"Start cluster {read.name}?", yes)
    launcher.up(click.echo)
