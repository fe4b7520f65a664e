"""The entry point `albef-retrieval`: fine-tuning ALBEF for image-text retrieval (Li et al. 2021, section 4).

It is the training of `albef` without masked language, on larger images that are cropped less. An image has several
captions, so pairs match by their image: all keys of a query's image are right answers, in the micro-batch and in the
queue, which remembers ids for that, and none is a negative of matching. The temperature is not clamped. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.albef.config import PairsConfig
from workloads.albef.entry import PairsEntry

if TYPE_CHECKING:
    from torch import Tensor


class RetrievalConfig(PairsConfig):
    """The recipe keys of the `albef-retrieval` workload; its defaults are those of the official fine-tuning."""

    matches_by_image: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "model": {"image_size": 384},
        "augment": {"crop_scale": [0.5, 1.0]},
        "text": {"max_tokens": 30},
        "contrastive": {"temperature_range": None},
    }


class RetrievalEntry(PairsEntry):
    """Finds the `albef-retrieval` workload, and fits to it what it starts from."""

    @property
    def config_type(self) -> type[RetrievalConfig]:
        """The recipe keys of fine-tuning for retrieval."""
        return RetrievalConfig

    @property
    def starts_from(self) -> Sequence[str]:
        """Pre-training, and with it all checkpoints of the official code."""
        return ("albef",)

    @property
    def fitted_keys(self) -> Sequence[str]:
        """The image size: position embeddings are resized."""
        return ("model.image_size",)

    def fit_start(self, config: RetrievalConfig, source: PairsConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's state from that of a checkpoint, of pre-training or fine-tuning; see `fitted_state`."""
        from workloads.albef.starting import fitted_state

        return fitted_state(config, source, state)


ENTRY = RetrievalEntry()
"""The entry object."""
