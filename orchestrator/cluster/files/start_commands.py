"""The commands of a launcher file that start Ray: with a token, on loopback, and as part of the cluster."""

from __future__ import annotations

import re
import shlex
from typing import Any

from orchestrator.cluster.files.faults import Faults, listing, mapping

HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STARTS = re.compile(r"\bray\s+start\b")
AUTH_MODE = re.compile(r"\bRAY_AUTH_MODE=[\"']?(\w*)")
HANDED_ON = re.compile(
    r"\bexport\b[^;&|\n]*\bRAY_AUTH_MODE=|\bset -a\b.*\bRAY_AUTH_MODE=|\bRAY_AUTH_MODE=[^;&|\n]*$", re.DOTALL
)
"""The variable reaches `ray start`: exported, set while all are exported, or written in front of it."""
DASHBOARD_HOST = re.compile(r"--dashboard-host[=\s]\s*[\"']?([^\s\"';]+)")
TOKEN_IN_COMMAND = re.compile(r"\bRAY_AUTH_TOKEN=(?!\$)")
ADD_MODE = "put `export RAY_AUTH_MODE=token;` before `ray start` in the same command"


def check_quotes(values: dict[str, Any], faults: Faults) -> None:
    """Note commands that end inside a quote, as one does that YAML cut off at a ` #`."""
    for key, commands in values.items():
        for index, command in enumerate(listing(commands) if key.endswith("_commands") else []):
            try:
                shlex.split(str(command))
            except ValueError:
                said = "ends inside a quote; YAML takes ` #` for a comment unless the command is a block (`- >-`)"
                faults.add((key, index), said)


def check_start_commands(values: dict[str, Any], faults: Faults) -> None:
    """Note start commands that are missing, open to anyone, or start a Ray that does not ask for the token."""
    for key in (HEAD, WORKER):
        commands = listing(values.get(key))
        starts = [(index, text) for index, text in enumerate(commands) if STARTS.search(str(text))]
        if not starts:
            faults.add((key,), "must hold a `ray start`; Ray's own commands know neither token nor loopback")
        for index, text in starts:
            if not _asks_for_token(STARTS.split(str(text))[0]):
                faults.add((key, index), f"starts Ray open to anyone who reaches the machine; {ADD_MODE}")
    _check_head(values, faults)
    _check_token(values, faults)


def _asks_for_token(before: str) -> bool:
    return AUTH_MODE.findall(before)[-1:] == ["token"] and HANDED_ON.search(before) is not None


def _check_head(values: dict[str, Any], faults: Faults) -> None:
    for index, command in enumerate(listing(values.get(HEAD))):
        text = str(command)
        for host in DASHBOARD_HOST.findall(text):
            if host not in LOOPBACK:
                faults.add(
                    (HEAD, index),
                    f"the dashboard takes jobs and must not listen on {host}: write --dashboard-host=127.0.0.1, and "
                    "reach it by `fuseray dashboard`",
                )
        if STARTS.search(text) and "--autoscaling-config" not in text:
            faults.add(
                (HEAD, index),
                "add `--autoscaling-config=~/ray_bootstrap_config.yaml` to `ray start`, or no worker is ever started",
            )


def _check_token(values: dict[str, Any], faults: Faults) -> None:
    commands = [
        (key, index, str(text)) for key in (HEAD, WORKER) for index, text in enumerate(listing(values.get(key)))
    ]
    for key, index, text in commands:
        if TOKEN_IN_COMMAND.search(text):
            faults.add((key, index), f"holds the token itself; bring it as a file: `{TOKEN_FILE}: {TOKEN_FILE}`")
    mounted = mapping(values.get("file_mounts"))
    if not any(str(path) == TOKEN_FILE or str(path).endswith(TOKEN_FILE.removeprefix("~")) for path in mounted):
        faults.add(
            ("file_mounts",),
            f"no machine gets the cluster's token; add `{TOKEN_FILE}: {TOKEN_FILE}` under file_mounts "
            "(`fuseray up` makes the file)",
        )
