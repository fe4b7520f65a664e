"""`fuseray up|down|dashboard CLUSTER`, and the confirmation before machines are started or ended."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.files import cluster_file
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.launch.launcher import JobServer
    from orchestrator.config.cluster import Cluster, NodeGroup


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def up_command(cluster: Path, yes: bool) -> None:
    """Start a cluster; nodes that run already are kept.

    CLUSTER is a YAML file, or a name (see `fuseray clusters`). The cluster keeps running, and costing, without this
    terminal until `fuseray down CLUSTER`.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    launcher = launcher_of(read)
    confirm(read, f"Start cluster {read.name}?", yes)
    launcher.up(click.echo)


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def down_command(cluster: Path, yes: bool) -> None:
    """Terminate a cluster and the jobs on it.

    CLUSTER is a YAML file, or a name (see `fuseray clusters`). `fuseray stop JOB` before it lets a run save a
    checkpoint.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    launcher = launcher_of(read)
    confirm(read, f"End cluster {read.name} and all jobs on it?", yes)
    launcher.down(click.echo)


CHECK_EVERY_S = 15.0


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--open", "open_browser", is_flag=True, help="Also open it in the browser.")
@click.option("--show-token", is_flag=True, help="Print the token; it allows running code on the cluster.")
def dashboard_command(cluster: Path, open_browser: bool, show_token: bool) -> None:
    """Make a cluster's dashboard available on this machine.

    CLUSTER is a YAML file, or a name (see `fuseray clusters`). The tunnel to a remote cluster stays open until Ctrl-C.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.findings import ClusterError
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    try:
        with launcher_of(read).connect() as server:
            click.echo(server.url)
            click.echo(f"The page asks for the cluster's token: {_token_line(server, show_token)}", err=True)
            if open_browser:
                click.launch(server.url)
            if read.kind != "local":
                _keep_open(server)
    except ConnectionError as error:
        raise ClusterError(f"cluster {read.name}: {error}") from None


def _token_line(server: JobServer, show: bool) -> str:
    return server.token if show else "--show-token prints it; the browser keeps it for 30 days."


def _keep_open(server: JobServer) -> None:
    """Wait for Ctrl-C, and check every `CHECK_EVERY_S` seconds that the tunnel is still open."""
    from orchestrator.cluster.launch.launcher import http_status

    click.echo("Ctrl-C closes the tunnel to it.", err=True)
    pause = threading.Event()
    try:
        while http_status(server) is not None:
            pause.wait(CHECK_EVERY_S)
    except KeyboardInterrupt:
        return
    raise ConnectionError(f"{server.url} does not answer any more; see whether Ray still runs on the head.")


def confirm(cluster: Cluster, question: str, yes: bool) -> None:
    """Ask for confirmation before starting or ending nodes, unless the cluster is local or `--yes` was given.

    Args:
        cluster: its node groups are listed.
        question: ends with a question mark.
        yes: whether `--yes` was given.

    Raises:
        ConfigError: there is no terminal to ask at.
        click.Abort: the answer was no.
    """
    if yes or cluster.kind == "local":
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"cluster {cluster.name}: there is no terminal to ask at; say --yes to continue.")
    click.echo("\n".join(map(_group_line, cluster.groups)), err=True)
    click.confirm(question, abort=True, err=True)


def _group_line(group: NodeGroup) -> str:
    count = str(group.most) if group.fewest == group.most else f"{group.fewest} to {group.most}"
    return f"  {group.name}: {count} x {group.machine or 'machine of unknown type'}, {group.market}"
