"""Verbs ask before they start or end machines."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from orchestrator.config.cluster import Cluster, NodeGroup

HEAD = NodeGroup(name="head", machine="m5.large", market="on-demand", fewest=1, most=1, cpus=None, gpus=0, head=True)
GPU = NodeGroup(name="gpu", machine="p5.48xlarge", market="spot", fewest=0, most=4, cpus=None, gpus=8)
CLOUD = Cluster(kind="launcher", name="cloud", file=Path("cloud.yaml"), groups=(HEAD, GPU), settings={})


def ask(folder: Path, terminal: bool, answer: str = "", yes: bool = False, kind: str = "launcher") -> tuple[int, str]:
    """Ask as a verb would, in a process with a terminal or without; return how it ended and what it showed."""
    shown = folder / "shown"
    code = f"""
from dataclasses import replace
from test_cluster_verbs import CLOUD
from orchestrator.cli.cluster.lifecycle import confirm
confirm(replace(CLOUD, kind={kind!r}), "Start it?", {yes})
print("started")
"""
    command = [sys.executable, "-c", code]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    if not terminal:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables)
        return done.returncode, done.stdout + done.stderr
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with shown.open("w") as file:
        ran = subprocess.run(command, stdin=theirs, stdout=file, stderr=file, env=variables)
    os.close(ours)
    os.close(theirs)
    return ran.returncode, shown.read_text()


def test_a_cluster_that_costs_is_asked_about_with_its_machines(tmp_path: Path) -> None:
    code, shown = ask(tmp_path, terminal=True, answer="y\n")
    assert code == 0
    assert "  head: 1 x m5.large, on-demand\n  gpu: 0 to 4 x p5.48xlarge, spot\nStart it? [y/N]" in shown
    assert "started" in shown
    code, shown = ask(tmp_path, terminal=True, answer="n\n")
    assert code != 0
    assert "Abort" in shown
    assert "started" not in shown


def test_without_a_terminal_nothing_is_started_unasked(tmp_path: Path) -> None:
    code, shown = ask(tmp_path, terminal=False)
    assert code != 0
    assert "cluster cloud: there is no terminal to ask at; say --yes to continue." in shown
    assert ask(tmp_path, terminal=False, yes=True) == (0, "started\n")
    assert ask(tmp_path, terminal=False, kind="local") == (0, "started\n")
