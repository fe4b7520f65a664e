"""The entry point `albef-retrieval`: fine-tuning ALBEF for image-text retrieval (Li et al. 2021, section 4).

It is the training of `albef` without masked language, on larger images that are cropped less. An image has several
captions, so pairs match by their image: all keys of a query's image are right answers, in the micro-batch and in the
queue, which remembers ids for that, and none is a negative of matching. The temperature is not clamped. Importing this
file does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from workloads.albef.config import PairsConfig
from workloads.albef.entry import PairsEntry
from workloads.contract import IMAGE_ID_NAMES, BadSample, Sample, names_its_image

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

    def check_samples(self, config: RetrievalConfig, samples: Sequence[Sample]) -> Iterator[str]:
        """Yield that samples do not say which image they are of, or say it wrongly."""
        try:
            known = [names_its_image(sample.key, sample.fields) for sample in samples]
        except BadSample as fault:
            yield str(fault)
            return
        if samples and not any(known):
            yield (
                f"samples have no image id ({', '.join(IMAGE_ID_NAMES)}), so each counts as an image of its own; where "
                "several are of one image, they are taken for wrong answers to each other: build the shards with ids "
                "(docs/retrieval.md)"
            )


ENTRY = RetrievalEntry()
"""The entry object."""
