"""The toy workload as a third party would publish it: a distribution of its own with two modules and an entry point."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HERE = Path(__file__).parent
MODULES = ("toy_workload.py", "paced_workload.py")
METADATA = "Metadata-Version: 2.1\nName: toy-land\nVersion: 1.2\n"
ENTRY_POINTS = """\
[console_scripts]
toy = paced_workload:main

[fuseray.workloads]
paced = paced_workload:ENTRY
"""


def install_toyland(folder: Path) -> Path:
    """Install the distribution into a folder for PYTHONPATH; return the folder."""
    information = folder / "toy_land-1.2.dist-info"
    information.mkdir(parents=True)
    for module in MODULES:
        shutil.copy(HERE / module, folder)
    (information / "METADATA").write_text(METADATA)
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    files = [*MODULES, *(f"{information.name}/{one.name}" for one in information.iterdir())]
    (information / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return folder


def with_toyland(site: Path) -> dict[str, str]:
    """Return the variable with which this project's programs, and what they start, find the distribution."""
    return {"PYTHONPATH": os.pathsep.join([str(HERE.parents[2]), str(site)])}
