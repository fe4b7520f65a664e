"""`fuseray watch-preemption`: poll the cloud for a preemption notice, and drain this node in Ray."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.preemption.drain import DrainTarget


@click.command()
@click.option(
    "--source",
    default="auto",
    show_default=True,
    metavar="auto|aws|gcp|file:PATH",
    help="Who announces preemptions; auto asks AWS and GCP.",
)
@click.option("--address", metavar="HOST:PORT", help="The Ray cluster's GCS; default: RAY_ADDRESS, or this machine's.")
@click.option("--node-id", metavar="HEX", help="The node to drain, where several run on this machine.")
@click.option(
    "--interval-s",
    type=click.FloatRange(min=0.1, max=60),
    help="Seconds between polls; default: 5 on AWS, else 1.",
)
@click.option(
    "--early",
    is_flag=True,
    help="Also take AWS's rebalance recommendations and GCP's maintenance announcements, which have no deadline.",
)
def command(source: str, address: str | None, node_id: str | None, interval_s: float | None, early: bool) -> None:
    """Watch for the cloud's preemption notice for this machine, and drain its node in Ray.

    Run it next to Ray on every node. A run with a worker on a draining node saves a checkpoint and
    continues without it.

    Exit codes: 0 the node is drained, or SIGTERM was received; 1 the node could not be found or drained; 2
    wrong usage.
    """
    from orchestrator.cluster.preemption.cloud import check_source_name
    from orchestrator.cluster.preemption.drain import DrainTarget

    check_source_name(source)
    _check_address(address)
    with _ended_by_sigterm():
        _watch(source, DrainTarget(address, node_id), interval_s, early)


def _watch(source: str, target: DrainTarget, interval_s: float | None, early: bool) -> None:
    from orchestrator.cluster.preemption.cloud import open_notice_source
    from orchestrator.cluster.preemption.drain import short_id
    from orchestrator.cluster.preemption.drain_process import drain, find_node_to_drain
    from orchestrator.cluster.preemption.watcher import Watcher

    node = find_node_to_drain(target)
    opened_source = open_notice_source(source, early)
    every_s = interval_s or opened_source.interval_s
    _log(
        f"watching {opened_source.name} every {every_s:g} s for node {short_id(node.node_id)} "
        f"of the cluster at {node.address}"
    )
    Watcher(opened_source, partial(drain, target), _log, every_s).run()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body with exit code 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    except SystemExit:
        _log("asked to end; no longer watching")
        raise


def _check_address(address: str | None) -> None:
    if address is None:
        return
    try:
        parts = urlsplit(f"//{address}")
        valid = bool(parts.hostname and parts.port) and parts.netloc == address
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"--address {address}: give HOST:PORT of the cluster's GCS, as in 10.0.0.1:6379.")


def _log(line: str) -> None:
    """Print a line with its time, for journals and logs."""
    click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", err=True)
