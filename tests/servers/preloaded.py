"""The command line in forks of one process that has loaded its libraries, which take seconds of every other start.

A fork is a process like any other, with a folder, variables, output and an exit code of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import IO

from ray._raylet import AuthenticationTokenLoader, Config

LIBRARIES = (
    "mlflow.tracking",
    "ray.job_submission",
    "orchestrator.cli.train",
    "orchestrator.cluster.files.read",
    "orchestrator.cluster.jobs.submit",
    "orchestrator.plan.preflight",
    "orchestrator.report.gather",
    "orchestrator.train.driver",
    "orchestrator.train.run_tools",
)

PROJECT = Path(__file__).parents[2]

_one_at_a_time = Lock()


def fuseray(
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600,
    prepare: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, as `python -m orchestrator.cli` would.

    Args:
        arguments: of the command line.
        folder: where it runs.
        environment: all variables; this process's own when absent.
        timeout_s: how long it may take.
        prepare: a function to call before, as MODULE:FUNCTION.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    with NamedTemporaryFile("r") as out, NamedTemporaryFile("r") as err, _one_at_a_time:
        variables = dict(os.environ if environment is None else environment)
        try:
            code = _forked([arguments, str(folder), variables, out.name, err.name, prepare], timeout_s)
        except TimeoutError:
            raise subprocess.TimeoutExpired(arguments, timeout_s, out.read(), err.read()) from None
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _forked(request: object, timeout_s: float) -> int:
    loaded = _loaded()
    assert loaded.stdin is not None
    assert loaded.stdout is not None
    loaded.stdin.write(f"{json.dumps(request)}\n".encode())
    pid = int(loaded.stdout.readline())
    try:
        if not select.select([loaded.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        loaded.stdout.readline()
        raise
    return int(loaded.stdout.readline())


@cache
def _loaded() -> subprocess.Popen[bytes]:
    """Start the process that loads the libraries; it ends with this one. No answer of it is read ahead."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, __file__], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables
    )


def _serve() -> None:
    """Fork for every line of standard input; say the fork's id, and its exit code when it has ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in LIBRARIES:
        import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(*json.loads(line))
        _say(pid, answers)
        _say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answers)


def _become(arguments: list[str], folder: str, variables: dict[str, str], out: str, err: str, prepare: str) -> None:
    """Turn this process into a program that has just started."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[1:1] = [one for one in variables.get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path]
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Config.initialize("")  # Ray read the variables of its settings, and looked for a token, when it was imported
    AuthenticationTokenLoader.instance().reset_cache()
    tempfile.tempdir = None
    sys.argv = ["fuseray", *arguments]
    try:
        if prepare:
            module, function = prepare.split(":")
            getattr(import_module(module), function)()
        import_module("orchestrator.cli.main").main()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _say(number: int, answers: IO[str]) -> None:
    print(number, file=answers, flush=True)


if __name__ == "__main__":
    _serve()
