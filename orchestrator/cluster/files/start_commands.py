"""The commands of a launcher file that start Ray: with a token, on loopback, and as part of the cluster."""

from __future__ import annotations

import re
from typing import Any

from orchestrator.cluster.files.faults import Faults, listing, mapping

HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105
HOMES = ("~/", "$HOME/", "${HOME}/")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STARTS = re.compile(r"\bray\s+start\b")
ASKS_FOR_TOKEN = re.compile(r"\bRAY_AUTH_MODE=[\"']?token\b[\"']?")
DASHBOARD_HOST = re.compile(r"--dashboard-host[=\s]\s*[\"']?([^\s\"';]+)")
TOKEN_IN_COMMAND = re.compile(r"\bRAY_AUTH_TOKEN=(?!\$)")
TOKEN_PATH = re.compile(r"\bRAY_AUTH_TOKEN_PATH=[\"']?([^\s\"';]+)")
ADD_MODE = "put `export RAY_AUTH_MODE=token;` before `ray start` in the same command"


def check_start_commands(values: dict[str, Any], faults: Faults) -> None:
    """Note start commands that are missing, open to anyone, or start a Ray that does not ask for the token."""
    for key in (HEAD, WORKER):
        commands = listing(values.get(key))
        starts = [(index, text) for index, text in enumerate(commands) if STARTS.search(str(text))]
        if not starts:
            faults.add((key,), "must hold a `ray start`; Ray's own commands know neither token nor loopback")
        for index, text in starts:
            before = str(text)[: _first_start(str(text))]
            if not ASKS_FOR_TOKEN.search(before):
                faults.add((key, index), f"starts Ray open to anyone who reaches the machine; {ADD_MODE}")
    _check_head(values, faults)
    _check_token(values, faults)


def _first_start(text: str) -> int:
    found = STARTS.search(text)
    return found.start() if found else 0


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
    mounted = {_from_home(str(path)) for path in mapping(values.get("file_mounts"))}
    named = {_from_home(path) for _, _, text in commands for path in TOKEN_PATH.findall(text)}
    wanted = named or {TOKEN_FILE}
    if not wanted <= mounted and not any(path.endswith("/.ray/auth_token") for path in mounted):
        faults.add(
            ("file_mounts",),
            f"no machine gets the cluster's token; add `{TOKEN_FILE}: {TOKEN_FILE}` under file_mounts "
            "(`fuseray up` makes the file)",
        )


def _from_home(path: str) -> str:
    for home in HOMES:
        if path.startswith(home):
            return "~/" + path.removeprefix(home)
    return path
