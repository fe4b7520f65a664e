"""`fuseray doctor`: checks of this machine, and on request a start of Ray."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.console import endpoint_option, json_option, no_errors, show_findings

if TYPE_CHECKING:
    from orchestrator.cluster.findings import Finding

RAY_TIMEOUT_S = 30.0


@click.command()
@click.option("--start-ray", is_flag=True, help="Start Ray on this machine and run a task on it.")
@click.option("--storage", multiple=True, metavar="URI", help="Also list this location in storage; may be repeated.")
@endpoint_option
@click.option("--tracking", metavar="URI", help="MLflow tracking URI; default: the recipes' own, where it exists.")
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Check this machine and print how to fix what is wrong.

    Exit code 1 when something must be fixed before training can work.
    """
    from rich.console import Console

    with Console(stderr=True).status("checking this machine"):
        findings = list(_findings(**options))
    if as_json:
        click.echo(
            json.dumps({"ok": no_errors(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        show_findings(findings)
        click.echo(_summary(findings))
    if not no_errors(findings):
        sys.exit(1)


def _findings(
    start_ray: bool, storage: tuple[str, ...], endpoint: str | None, tracking: str | None
) -> Iterator[Finding]:
    from orchestrator.cluster.doctor.examine import ServicesToCheck, examine

    yield from examine(ServicesToCheck(storage, endpoint, tracking))
    if start_ray:
        yield _start_ray()


def _start_ray() -> Finding:
    """Start Ray as a run would, run one task on it and stop it again."""
    from orchestrator.cluster.findings import failed, passed
    from orchestrator.storage.ray_folder import ray_folder

    began = monotonic()
    try:
        _run_a_task()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        logs = ray_folder() / "ray" / "session_latest" / "logs"
        return failed("ray starts", message, f"Fix the errors above first; Ray's own logs are in {logs}.")
    return passed("ray starts", f"started, ran a task and stopped in {monotonic() - began:.1f} s")


def _run_a_task() -> None:
    import ray

    from orchestrator.config.recipe import ScaleSection
    from orchestrator.train.ray_session import ray_session

    with TemporaryDirectory() as folder, ray_session(ScaleSection(), 1, Path(folder) / "ray.log"):
        ray.get(ray.remote(lambda: None).remote(), timeout=RAY_TIMEOUT_S)


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    if counts["error"]:
        return f"{counts['error']} of {len(findings)} checks must be fixed before training can work."
    warnings = f", {counts['warning']} with a warning" if counts["warning"] else ""
    return f"This machine can train: {len(findings)} checks passed{warnings}."
