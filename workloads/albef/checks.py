"""What is wrong with an ALBEF recipe, and what its run would suffer from, known before anything starts.

Imports torch only where the recipe names an image encoder of timm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from workloads.albef.config import AdversarialConfig, PairsConfig
from workloads.albef.model_config import ModelConfig, PlainViT
from workloads.contract import BatchShape, Problem, WorkloadError
from workloads.interop.model_sources import MINILM
from workloads.nn.vocabulary import CLS, MASK, PAD
from workloads.transforms.text import cached_tokenizer, load_tokenizer


def problems(config: PairsConfig, batch: BatchShape) -> Iterator[Problem]:
    """Yield every contradiction, with the recipe key to change."""
    yield from _sizes(config.model)
    yield from _recomputation(config)
    yield from _objectives(config, batch)
    yield from _adversarial(config)
    yield from _perturbed_patches(config)
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
        yield _problem(error)
        return
    for key in ("mean", "std"):
        if getattr(model.vision, key) is None:
            yield Problem(f"model.vision.{key}", f"is null; leave it out, for that of {name}")
    yield from _named_lock(model, name, blocks)


def _named_lock(model: ModelConfig, name: str, blocks: int) -> Iterator[Problem]:
    trained = model.lock.vision
    if not isinstance(trained, int):
        return
    if trained > blocks:
        fix = f"set at most {blocks}, or all" if blocks else "set all"
        yield Problem("model.lock.vision", f"timm tells of {blocks} blocks of {name}; {fix}")
        return
    from workloads.nn.locking import check_lock

    try:
        check_lock(name, model.image_hw, trained)
    except WorkloadError as error:
        yield _problem(error)


def _recomputation(config: PairsConfig) -> Iterator[Problem]:
    name = config.model.vision.name
    if not config.compute.gradient_checkpointing or name is None or find_spec("timm") is None:
        return
    from workloads.nn.timm_encoder import check_gradient_checkpointing, check_name

    try:
        check_name(name)
    except WorkloadError:
        return  # reported with the sizes
    try:
        check_gradient_checkpointing(name)
    except WorkloadError as error:
        yield _problem(error)


def _problem(error: WorkloadError) -> Problem:
    """Return an error whose message begins with its key."""
    key, _, message = str(error).partition(": ")
    return Problem(key, message)


def _tokens(config: PairsConfig) -> Iterator[Problem]:
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


def _objectives(config: PairsConfig, batch: BatchShape) -> Iterator[Problem]:
    contrastive, matching = config.contrastive, config.matching
    if not (contrastive.enabled or matching.enabled or config.mask_probability):
        yield Problem("contrastive.enabled", "no objective is left; enable one")
    if matching.enabled and batch.micro_batch_size < 2:
        yield Problem("batch.micro_batch_size", "matching draws negatives inside a micro-batch; it needs at least 2")
    if matching.enabled and matching.hard_negatives and not contrastive.enabled:
        yield Problem("matching.hard_negatives", "needs contrastive.enabled, whose similarities weigh the negatives")
    samples = batch.micro_batches * batch.micro_batch_size
    if contrastive.enabled and 0 < contrastive.queue_size < samples:
        yield Problem("contrastive.queue_size", f"{contrastive.queue_size} is less than one step's {samples} samples")


def _adversarial(config: PairsConfig) -> Iterator[Problem]:
    options = config.adversarial
    if not options.steps:
        return
    if not (config.matching.enabled or config.mask_probability):
        yield Problem(
            "adversarial.steps", "there is nothing to perturb: matching and masking are off; enable one or set 0"
        )
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


def _perturbed_patches(config: PairsConfig) -> Iterator[Problem]:
    """Yield why patches of a named encoder cannot be perturbed."""
    options, name = config.adversarial, config.model.vision.name
    perturbed = options.steps and options.image_at == "patches" and "image" in options.perturb
    if not perturbed or name is None or find_spec("timm") is None:
        return
    from workloads.nn.timm_encoder import has_first_layer

    if not has_first_layer(name):
        yield Problem("adversarial.image_at", f"timm names no first layer of {name} to perturb; set tokens")


def queue_warnings(config: PairsConfig, batch: BatchShape, steps: int) -> Iterator[Problem]:
    """Yield why a queue would be told apart by the age of its features alone (docs/science.md).

    A feature is up to `queue_size` / samples of a step steps old. Features of different ages can be compared while the
    teacher that makes them hardly moves in that time, and that teacher says something of the student only after some of
    its own averaging times, 1 / (1 - momentum) steps.
    """
    contrastive, momentum = config.contrastive, config.distillation.momentum
    if not (contrastive.enabled and contrastive.queue_size):
        return
    samples = batch.micro_batches * batch.micro_batch_size
    fill, averaging = contrastive.queue_size / samples, 1 / (1 - momentum)
    if steps < (needed := math.ceil(QUEUE_TURNS * max(fill, averaging))):
        yield Problem(
            "contrastive.queue_size",
            f"{contrastive.queue_size} features want a run of about {needed} steps, and this has {steps}: the queue "
            f"takes {fill:.0f} steps to fill, and the teacher follows the student by {averaging:.0f}; in a shorter run "
            "features are told apart by their age alone. Set 0, or train longer",
        )
    elif fill > averaging:
        yield Problem(
            "distillation.momentum",
            f"the oldest of {contrastive.queue_size} features in the queue are {fill:.0f} steps old, and the teacher's "
            f"average reaches back {averaging:.0f}: they are told apart by their age; raise it to "
            f"{1 - 1 / fill:.3f} or more, or make contrastive.queue_size smaller",
        )


QUEUE_TURNS = 20
"""Steps that a run needs, in fillings of the queue or averaging times of the teacher, whichever take longer."""
