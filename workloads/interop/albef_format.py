"""The checkpoint format `albef`, as its entry point names it. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workloads.contract import ForeignCheckpoint


class AlbefFormat:
    """The files of the official ALBEF code: `torch.save` of the model's tensors, nested with the optimizer, or flat."""

    def read(self, file: Path, overrides: Mapping[str, Any]) -> ForeignCheckpoint:
        """Read a checkpoint; see `workloads.contract.CheckpointFormat`."""
        from workloads.interop.albef_files import read_albef

        return read_albef(file, overrides)

    def write(self, checkpoint: ForeignCheckpoint, file: Path, flat: bool = False) -> None:
        """Write a checkpoint; see `workloads.contract.CheckpointFormat`."""
        from workloads.interop.albef_files import write_albef

        write_albef(checkpoint, file, flat)


FORMAT = AlbefFormat()
"""The object that the entry point names."""
