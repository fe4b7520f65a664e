"""Lets `python -m orchestrator.cli` stand in for the command `fuseray`."""

import os
import sys
from pathlib import Path

HOME = Path(__file__).parents[2]
"""The folder from which this package is imported."""


def run() -> None:
    """Run the command line, which imports nothing from the current folder, where `python -m` looks first."""
    if not sys.flags.safe_path and sys.path[0] == os.getcwd() != str(HOME):
        del sys.path[0]
    from orchestrator.cli.main import main

    main()


run()
