"""How workers talk to each other, and how they stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

if TYPE_CHECKING:
    from ray.train._internal.base_worker_group import BaseWorkerGroup
    from ray.train.backend import BackendConfig


class QuickTorchBackend(_TorchBackend):
    """Lets the process group end with its processes, which are killed in any case.

    Ray Train would have every worker take leave of the others, and wait 30 seconds for those that hang.
    """

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        """Do nothing."""


class QuickTorchConfig(TorchConfig):
    """Ray Train's settings for torch, with `QuickTorchBackend`."""

    @property
    def backend_cls(self) -> type[QuickTorchBackend]:
        """What starts and stops the process group."""
        return QuickTorchBackend
