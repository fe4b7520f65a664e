"""The entry point `albef`: contradictions in its recipes, the metrics it reports, its factory. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from workloads.albef.config import AdversarialConfig, AlbefConfig, ModelConfig, PlainViT
from workloads.contract import BatchShape, Metric, Panel, Problem, ReportedMetrics, Transform, Workload, WorkloadError
from workloads.downstream.retrieval_metrics import contrastive_metrics, reranked_metrics
from workloads.interop.model_sources import MINILM
from workloads.nn.vocabulary import CLS, MASK, PAD
from workloads.transforms.text import STAND_IN, cached_tokenizer, is_on_hub, load_tokenizer, tokenizer_file


def problems(config: AlbefConfig, batch: BatchShape) -> Iterator[Problem]:
    """Yield every contradiction, with the recipe key to change."""
    yield from _sizes(config.model)
    yield from _objectives(config, batch)
    yield from _adversarial(config)
    yield from _tokens(config)


def _sizes(model: ModelConfig) -> Iterator[Problem]:
    text = model.text
    yield from _plain_vit(model) if model.vision.name is None else _named_encoder(model)
    if isinstance(model.lock.text, int) and model.lock.text > text.layers:
        yield Problem("model.lock.text", f"there are {text.layers} text layers; set at most {text.layers}, or all")
    if text.width % text.heads:
        yield Problem("model.text.heads", f"{text.heads} does not divide model.text.width ({text.width})")


def _plain_vit(model: ModelConfig) -> Iterator[Problem]:
    missing = [key for key in (*PlainViT._fields, "mean", "std") if getattr(model.vision, key) is None]
    if missing or model.image_size is None:
        where = [f"model.vision.{key}" for key in missing] or ["model.image_size"]
        yield Problem(where[0], f"set {', '.join(where)}, or model.vision.name with which they come")
        return
    patch, width, depth, heads, _ = model.vision.plain
    if any(side % patch for side in model.image_hw):
        yield Problem("model.image_size", f"{model.image_size} is no multiple of model.vision.patch ({patch})")
    if width % heads:
        yield Problem("model.vision.heads", f"{heads} does not divide model.vision.width ({width})")
    if isinstance(model.lock.vision, int) and model.lock.vision > depth:
        yield Problem("model.lock.vision", f"there are {depth} blocks; set at most {depth}, or all")


def _named_encoder(model: ModelConfig) -> Iterator[Problem]:
    """Yield why timm's encoder cannot be used; imports torch where timm is installed."""
    for key in PlainViT._fields:
        if getattr(model.vision, key) is not None:
            yield Problem(f"model.vision.{key}", f"comes with {model.vision.name}; leave it out")
    if find_spec("timm") is None:
        return  # a machine that trains nothing itself; the one that does checks it
    from workloads.nn.timm_encoder import block_count, encoder_shape

    name = model.vision.name or ""
    try:
        encoder_shape(name, model.image_hw)
        blocks = block_count(name)
    except WorkloadError as error:
        key, _, message = str(error).partition(": ")
        yield Problem(key, message)
        return
    if isinstance(model.lock.vision, int) and model.lock.vision > blocks:
        fix = f"set at most {blocks}, or all" if blocks else "set all"
        yield Problem("model.lock.vision", f"timm tells of {blocks} blocks of {name}; {fix}")


def _tokens(config: AlbefConfig) -> Iterator[Problem]:
    text = config.model.text
    if config.text.max_tokens > text.positions:
        yield Problem("text.max_tokens", f"must be at most model.text.positions ({text.positions})")
    if config.text.tokenizer != MINILM and not Path(config.text.tokenizer).expanduser().exists():
        return  # a name on the hub, or a path of other machines: looked up when training starts
    if find_spec("tokenizers") is None:
        return  # a machine that trains nothing itself; the one that does checks it
    try:
        tokenizer = (cached_tokenizer if config.text.tokenizer == MINILM else load_tokenizer)(config.text)
    except WorkloadError as error:
        yield Problem("text.tokenizer", str(error).removeprefix("text.tokenizer: "))
        return
    if tokenizer.get_vocab_size() > text.vocabulary:
        yield Problem("model.text.vocabulary", f"must be at least the tokenizer's {tokenizer.get_vocab_size()}")
    for token, expected in {"[PAD]": PAD, "[CLS]": CLS, "[MASK]": MASK}.items():
        if tokenizer.token_to_id(token) != expected:
            yield Problem("text.tokenizer", f"{token} must have the id {expected}; choose a BERT vocabulary")


def _objectives(config: AlbefConfig, batch: BatchShape) -> Iterator[Problem]:
    contrastive, matching = config.contrastive, config.matching
    if not (contrastive.enabled or matching.enabled or config.masking.enabled):
        yield Problem("contrastive.enabled", "no objective is left; enable contrastive, matching or masking")
    if matching.enabled and batch.micro_batch_size < 2:
        yield Problem("batch.micro_batch_size", "matching draws negatives inside a micro-batch; it needs at least 2")
    if matching.enabled and matching.hard_negatives and not contrastive.enabled:
        yield Problem("matching.hard_negatives", "needs contrastive.enabled, whose similarities weigh the negatives")
    samples = batch.micro_batches * batch.micro_batch_size
    if contrastive.enabled and 0 < contrastive.queue_size < samples:
        yield Problem("contrastive.queue_size", f"{contrastive.queue_size} is less than one step's {samples} samples")


def _adversarial(config: AlbefConfig) -> Iterator[Problem]:
    options = config.adversarial
    if not options.steps:
        return
    if not (config.matching.enabled or config.masking.enabled):
        yield Problem("adversarial.steps", "perturbs matching and masking, but both are off; enable one or set 0")
    yield from _modalities(options)
    yield from _start(options)


def _start(options: AdversarialConfig) -> Iterator[Problem]:
    if options.steps == 1 and options.init == "zero":
        yield Problem(
            "adversarial.steps", "a single pass from a zero perturbation perturbs nothing; set 2 or init: uniform"
        )
    if options.init == "uniform" and options.max_norm is not None and options.init_radius > options.max_norm:
        yield Problem(
            "adversarial.init_radius", f"starts outside the ball; set at most adversarial.max_norm ({options.max_norm})"
        )


def _modalities(options: AdversarialConfig) -> Iterator[Problem]:
    if not options.perturb:
        yield Problem("adversarial.perturb", "names no modality; set [text], [image] or both, or adversarial.steps=0")
    if len(set(options.perturb)) < len(options.perturb):
        yield Problem("adversarial.perturb", "names a modality twice")
    if options.form != "separate" and len(set(options.perturb)) == 1:
        yield Problem("adversarial.form", f"{options.form} needs perturb: [text, image]; for one modality set separate")
    if options.image_at == "patches" and options.perturb and "image" not in options.perturb:
        yield Problem("adversarial.image_at", "no image is perturbed; leave it out or add image to adversarial.perturb")


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


def reported_metrics(config: AlbefConfig) -> ReportedMetrics:
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


class AlbefEntry:
    """Finds, checks and creates the `albef` workload."""

    @property
    def config_type(self) -> type[AlbefConfig]:
        """The recipe keys of ALBEF."""
        return AlbefConfig

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

    def check(self, config: AlbefConfig, batch: BatchShape) -> Iterable[Problem]:
        """Yield what makes a recipe impossible, before anything starts."""
        return problems(config, batch)

    def check_files(self, config: AlbefConfig, pretrained: bool) -> Iterable[Problem]:
        """Yield what is wrong with the tokenizer and the pretrained weights that this machine has; imports torch."""
        try:
            tokenizer_file(config.text.tokenizer)
        except WorkloadError as error:
            yield Problem("text.tokenizer", str(error).removeprefix("text.tokenizer: "))
            return
        if pretrained and (config.model.vision_weights or config.model.text_weights):
            from workloads.interop.pretrained import check_initial_weights

            yield from check_initial_weights(config)

    def describe(self, config: AlbefConfig) -> Iterable[str]:
        """Yield what the image encoder makes of an image, and what is trained; nothing without torch and timm."""
        if find_spec("torch") is None or find_spec("timm") is None:
            return ()
        from workloads.albef.description import describe_model

        return describe_model(config)

    def metrics(self, config: AlbefConfig) -> ReportedMetrics:
        """Return what a run of a recipe reports."""
        return reported_metrics(config)

    def transform(self, config: AlbefConfig) -> Transform:
        """Return the training transform: image and caption to pixels and token ids."""
        from workloads.transforms.pairs import PairTransform

        return PairTransform(config.model.image_hw, config.augment, config.text)

    def profiled(self, config: AlbefConfig) -> AlbefConfig:
        """Return the config without a tokenizer of the hub: captions as long in tokens cost the same."""
        if not is_on_hub(config.text.tokenizer):
            return config
        return config.model_copy(update={"text": config.text.model_copy(update={"tokenizer": STAND_IN})})

    def create(self, config: AlbefConfig) -> Workload:
        """Return the workload; imports torch."""
        from workloads.albef.workload import AlbefWorkload

        return AlbefWorkload(config)


ENTRY = AlbefEntry()
"""The entry object."""
