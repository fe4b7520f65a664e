"""`fuseray up CLUSTER`."""

from __future__ import annotations

import sys
import threading
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.launch.launcher import JobServer
    from orchestrator.config.cluster import Cluster, NodeGroup


# How the verbs are told which cluster is meant: by a file, or by the name of one in ./clusters.


FOLDER = Path("clusters")
SUFFIX = ".yaml"


def cluster_file(written: str) -> Path:
    """Return the file of the cluster that is meant: a path, or NAME for clusters/NAME.yaml. To be a parameter's `type`.

    Raises:
        click.BadParameter: there is none.
    """
    named = FOLDER / f"{written}{SUFFIX}"
    for candidate in (Path(written), named):
        if candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(FOLDER).with_suffix("")) for file in FOLDER.rglob(f"*{SUFFIX}"))
    near = get_close_matches(written, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"clusters here: {', '.join(names) or 'none'}."
    raise click.BadParameter(f"there is neither a file {written} nor {named}; {hint}")


# `fuseray up CLUSTER`.


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
def up_command(cluster: Path, yes: bool) -> None:
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


# `fuseray down CLUSTER`.


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
def down_command(cluster: Path, yes: bool) -> None:
    """End a cluster and the jobs on it.

    CLUSTER is a YAML file, or NAME for clusters/NAME.yaml. `fuseray stop JOB` before it lets a run leave a checkpoint.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    read = read_cluster(cluster)
    launcher = launcher_of(read)
    ask_first(read, f"End cluster {read.name} and all jobs on it?", yes)
    launcher.down(click.echo)


# `fuseray dashboard CLUSTER`.


LOOK_S = 15.0


@click.command()
@click.argument("cluster", type=cluster_file, metavar="CLUSTER")
@click.option("--open", "open_browser", is_flag=True, help="Also open it in the browser.")
@click.option("--show-token", is_flag=True, help="Print the token, which lets whoever sees it run code on the cluster.")
def dashboard_command(cluster: Path, open_browser: bool, show_token: bool) -> None:
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


# Asking before something is done to machines that cost money or that others use.


def ask_first(cluster: Cluster, question: str, yes: bool) -> None:
    """Ask for leave, unless the cluster is this machine alone or leave was given.

    Args:
        cluster: what it is about; its machines are listed.
        question: ends with a question mark.
        yes: whether leave was given on the command line.

    Raises:
        ConfigError: there is no terminal to ask at.
        click.Abort: the answer was no.
    """
    if yes or cluster.kind == "local":
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"cluster {cluster.name}: there is no terminal to ask at; say --yes to go on.")
    click.echo("\n".join(map(_line, cluster.groups)), err=True)
    click.confirm(question, abort=True, err=True)


def _line(group: NodeGroup) -> str:
    count = str(group.most) if group.fewest == group.most else f"{group.fewest} to {group.most}"
    return f"  {group.name}: {count} x {group.machine or 'machine of unknown type'}, {group.market}"
