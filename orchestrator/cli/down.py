"""`fuseray down CLUSTER`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.asking_first import ask_first
from orchestrator.cli.cluster_argument import cluster_file


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(cluster: Path, yes: bool) -> None:
    """End a cluster and the jobs on it.

    CLUSTER is a YAML file, or NAME for clusters/NAME.yaml. `fuseray stop JOB` before it lets a run leave a checkpoint.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    launcher = launcher_of(read)
    ask_first(read, f"End cluster {read.name} and all jobs on it?", yes)
    launcher.down(click.echo)
