"""Lets `python -m orchestrator.cli` stand in for the command `fuseray`."""

from orchestrator.cli.main import main

main()
