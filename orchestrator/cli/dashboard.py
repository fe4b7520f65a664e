"""`fuseray dashboard CLUSTER`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.cluster_argument import cluster_file

if TYPE_CHECKING:
    from orchestrator.cluster.launch.launcher import JobServer

LOOK_S = 15.0


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--open", "open_browser", is_flag=True, help="Also open it in the browser.")
@click.option("--show-token", is_flag=True, help="Print the token, which lets whoever sees it run code on the cluster.")
def command(cluster: Path, open_browser: bool, show_token: bool) -> None:
    """Make a cluster's dashboard available on this machine.

    CLUSTER is a YAML file, or NAME for clusters/NAME.yaml. The way to a remote cluster stays open until Ctrl-C.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.findings import ClusterError
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    try:
        with launcher_of(read).reach() as server:
            click.echo(server.url)
            click.echo(f"The page asks for the cluster's token: {_token_line(server, show_token)}", err=True)
            if open_browser:
                click.launch(server.url)
            if read.kind != "local":
                _hold(server)
    except ConnectionError as error:
        raise ClusterError(f"cluster {read.name}: {error}") from None


def _token_line(server: JobServer, show: bool) -> str:
    return server.token if show else "--show-token prints it; the browser keeps it for 30 days."


def _hold(server: JobServer) -> None:
    """Wait for Ctrl-C, and see now and then that the way is still open."""
    from orchestrator.cluster.launch.launcher import status_of

    click.echo("Ctrl-C closes the way to it.", err=True)
    pause = threading.Event()
    try:
        while status_of(server) is not None:
            pause.wait(LOOK_S)
    except KeyboardInterrupt:
        return
    raise ConnectionError(f"{server.url} does not answer any more; see whether Ray still runs on the head.")
