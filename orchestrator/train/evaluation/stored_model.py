"""The model of a checkpoint, as the processes that measure it load it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.config.loading import find_workload
from orchestrator.storage.location import Location
from orchestrator.train.checkpoints.load import load_model, load_state, model_config
from orchestrator.train.checkpoints.manifest import MODEL_FILE, read_manifest
from workloads.contract import KeyedRandom, Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The model of a checkpoint, not loaded yet.

    Args:
        folder: of the checkpoint.
    """

    folder: Location

    def load(self) -> Workload:
        """Return the workload with the checkpoint's model, on this process's GPU if it has one.

        Raises:
            DamagedError: a file is missing or damaged.
            CheckpointError: the checkpoint is of another format version.
            StorageError: the store is failing.
        """
        import torch

        checkpoint = load_model(self.folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        workload = find_workload(checkpoint.state.workload).create(model_config(checkpoint.state))
        model = workload.build(device, KeyedRandom(("evaluation",)), pretrained=False)
        if _is_double(dict(checkpoint.model)):
            model.double()
        _load(model, dict(checkpoint.model), device)
        return workload

    def without_model(self) -> Workload:
        """Return the workload before its model is built.

        Raises:
            DamagedError: a file is missing or damaged.
            StorageError: the store is failing.
        """
        state = load_state(self.folder)
        return find_workload(state.workload).create(model_config(state))

    def digest(self) -> str:
        """Return a digest of the model's tensors and of the configuration that they belong to.

        Raises:
            DamagedError: the manifest is damaged.
            StorageError: the store is failing.
        """
        files = read_manifest(self.folder).parts(MODEL_FILE)
        state = load_state(self.folder)
        about = [sorted(record.sha256 for record in files.values()), state.workload, dict(state.config)]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _is_double(tensors: dict[str, Tensor]) -> bool:
    import torch

    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return kinds == {torch.float64}


def _load(model: nn.Module, tensors: dict[str, Tensor], device: torch.device) -> None:
    model.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()})
