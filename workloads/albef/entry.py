"""The entry point `albef`: the metrics it reports, what it says of its recipes, its factory. Imports no torch.

`PairsEntry` is what it shares with the entry points of fine-tuning on image-text pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from workloads.albef.checks import problems, queue_warnings
from workloads.albef.config import AlbefConfig, PairsConfig
from workloads.albef.model_config import PlainViT
from workloads.contract import BatchShape, Metric, Panel, Problem, ReportedMetrics, Transform, Workload, WorkloadError
from workloads.downstream.retrieval_metrics import contrastive_metrics, reranked_metrics
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.transforms.text import STAND_IN, is_on_hub, tokenizer_file

LOSSES = Panel("Losses")
OPTIMISATION = Panel("Optimisation")
ADVERSARIAL = ("loss_adversarial", "adversarial_divergence")


def _loss(name: str, title: str, label: str, headline: bool = False) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="loss (nats)",
        goal="min",
        panel=LOSSES,
        label=label,
        on_terminal=True,
        headline=headline,
        noisy=True,
    )


STEP_METRICS = {
    metric.name: metric
    for metric in (
        _loss("loss", "Total loss", "loss", headline=True),
        _loss("loss_itc", "Image-text contrastive (ITC)", "itc"),
        _loss("loss_itm", "Image-text matching (ITM)", "itm"),
        Metric(name="itm_skipped", title="Pairs without a negative", goal="min", label="itm skipped"),
        _loss("loss_mlm", "Masked language modelling (MLM)", "mlm"),
        _loss("loss_adversarial", "Adversarial", "adv"),
        Metric(
            name="adversarial_divergence",
            title="Adversarial divergence (symmetric KL)",
            unit="divergence (nats)",
            panel=LOSSES,
            label="kl",
            noisy=True,
        ),
        Metric(
            name="alpha",
            title="Distillation weight \N{GREEK SMALL LETTER ALPHA}",
            unit="weight of the soft targets",
            panel=OPTIMISATION,
            label="alpha",
            from_zero=True,
        ),
        Metric(
            name="temperature",
            title="Contrastive temperature",
            unit="temperature",
            panel=OPTIMISATION,
            label="temperature",
        ),
    )
}


def reported_metrics(config: PairsConfig) -> ReportedMetrics:
    """Return what a run reports: in every step, in the part of it with adversarial steps, and of an evaluation."""
    steps = config.step_metric_names(config.adversarial.active[0])
    partly = ADVERSARIAL if config.adversarial.steps and config.adversarial.active != (0.0, 1.0) else ()
    return ReportedMetrics(
        steps=tuple(STEP_METRICS[name] for name in steps if name not in partly),
        some_steps=tuple(STEP_METRICS[name] for name in partly),
        evaluation=contrastive_metrics(),
        final_evaluation=reranked_metrics(),
        step_hooks="teacher and queue",
    )


class PairsEntry:
    """Checks and creates a workload that trains ALBEF on image-text pairs and measures it by retrieval."""

    @property
    def evaluation_type(self) -> type[RetrievalOptions]:
        """The options of retrieval."""
        return RetrievalOptions

    @property
    def architecture_keys(self) -> Sequence[str]:
        """The sizes of encoders, heads and queue, and what the image encoder's numbers mean."""
        vision = [f"model.vision.{key}" for key in ("name", *PlainViT._fields, "mean", "std")]
        text = ("width", "layers", "fusion_layers", "heads", "vocabulary", "positions", "pooling")
        others = ("model.image_size", "model.embed_dim", "contrastive.queue_size")
        return [*vision, *(f"model.text.{key}" for key in text), *others]

    @property
    def related_keys(self) -> Sequence[tuple[str, str]]:
        """How soft the targets are, and how large the perturbation."""
        return (("distillation.alpha", "adversarial.step_size"),)

    def check(self, config: PairsConfig, batch: BatchShape) -> Iterable[Problem]:
        """Yield what makes a recipe impossible, before anything starts."""
        return problems(config, batch)

    def check_files(self, config: PairsConfig, pretrained: bool) -> Iterable[Problem]:
        """Yield what is wrong with the tokenizer and the pretrained weights that this machine has; imports torch."""
        try:
            tokenizer_file(config.text.tokenizer)
        except WorkloadError as error:
            yield Problem("text.tokenizer", str(error).removeprefix("text.tokenizer: "))
            return
        if pretrained and (config.model.vision_weights or config.model.text_weights):
            from workloads.interop.pretrained import check_initial_weights

            yield from check_initial_weights(config)

    def describe(self, config: PairsConfig) -> Iterable[str]:
        """Yield what the image encoder makes of an image, and what is trained; nothing without torch and timm."""
        if find_spec("torch") is None or find_spec("timm") is None:
            return ()
        from workloads.albef.description import describe_model

        return describe_model(config)

    def metrics(self, config: PairsConfig) -> ReportedMetrics:
        """Return what a run of a recipe reports."""
        return reported_metrics(config)

    def transform(self, config: PairsConfig) -> Transform:
        """Return the training transform: image and caption to pixels, token ids and, where it counts, image id."""
        from workloads.transforms.pairs import IdentifiedPairTransform, PairTransform

        kind = IdentifiedPairTransform if config.matches_by_image else PairTransform
        return kind(config.model.image_hw, config.augment, config.text)

    def profiled(self, config: PairsConfig) -> PairsConfig:
        """Return the config without a tokenizer of the hub: captions as long in tokens cost the same."""
        if not is_on_hub(config.text.tokenizer):
            return config
        return config.model_copy(update={"text": config.text.model_copy(update={"tokenizer": STAND_IN})})

    def create(self, config: PairsConfig) -> Workload:
        """Return the workload; imports torch."""
        from workloads.albef.workload import AlbefWorkload

        return AlbefWorkload(config)


class AlbefEntry(PairsEntry):
    """Finds the `albef` workload."""

    @property
    def config_type(self) -> type[AlbefConfig]:
        """The recipe keys of ALBEF's pre-training."""
        return AlbefConfig

    def warnings(self, config: AlbefConfig, batch: BatchShape, steps: int) -> Iterable[Problem]:
        """Yield what a run would suffer from: a queue that the run is too short for."""
        return queue_warnings(config, batch, steps)


ENTRY = AlbefEntry()
"""The entry object."""
