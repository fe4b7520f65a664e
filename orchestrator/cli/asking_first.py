"""Asking before something is done to machines that cost money or that others use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orchestrator.config.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.config.cluster import Cluster, NodeGroup


def ask_first(cluster: Cluster, question: str, yes: bool) -> None:
    """Ask for leave, unless the cluster is this machine alone or leave was given.

    Args:
        cluster: what it is about; its machines are listed.
        question: ends with a question mark.
        yes: whether leave was given on the command line.

    Raises:
        SpecError: there is no terminal to ask at.
        click.Abort: the answer was no.
    """
    if yes or cluster.kind == "local":
        return
    if not sys.stdin.isatty():
        raise SpecError(f"cluster {cluster.name}: there is no terminal to ask at; say --yes to go on.")
    click.echo("\n".join(map(_line, cluster.groups)), err=True)
    click.confirm(question, abort=True, err=True)


def _line(group: NodeGroup) -> str:
    count = str(group.most) if group.fewest == group.most else f"{group.fewest} to {group.most}"
    return f"  {group.name}: {count} x {group.machine or 'machine of unknown type'}, {group.market}"
