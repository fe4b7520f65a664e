"""What the entry point `albef` names. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workloads.contract import BatchShape, MetricNames, Problem, Transform, Workload
from workloads.pretrain.albef_check import problems
from workloads.pretrain.albef_config import AlbefConfig
from workloads.pretrain.albef_metrics import metric_names


class AlbefEntry:
    """Finds, checks and creates the `albef` workload."""

    @property
    def config_type(self) -> type[AlbefConfig]:
        """The recipe keys of ALBEF."""
        return AlbefConfig

    @property
    def architecture_keys(self) -> Sequence[str]:
        """The sizes of encoders, heads and queue."""
        vision = [f"model.vision.{key}" for key in ("patch", "width", "depth", "heads")]
        text = ("width", "layers", "fusion_layers", "heads", "vocabulary", "positions")
        others = ("model.image_size", "model.embed_dim", "contrastive.queue_size")
        return [*vision, *(f"model.text.{key}" for key in text), *others]

    def check(self, config: AlbefConfig, batch: BatchShape) -> Iterable[Problem]:
        """Yield what makes a recipe impossible, before anything starts."""
        return problems(config, batch)

    def metric_names(self, config: AlbefConfig) -> MetricNames:
        """Return what a run of a recipe reports."""
        return metric_names(config)

    def transform(self, config: AlbefConfig) -> Transform:
        """Return the training transform: image and caption to pixels and token ids."""
        from workloads.transforms.pairs import PairTransform

        return PairTransform(config.model.image_size, config.augment, config.text)

    def create(self, config: AlbefConfig) -> Workload:
        """Return the workload; imports torch."""
        from workloads.pretrain.albef import AlbefWorkload

        return AlbefWorkload(config)


ENTRY = AlbefEntry()
"""The entry object."""
