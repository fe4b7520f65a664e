"""Fitting weights into a module, by the names and shapes of tensors: whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.contract import InitialWeights, WorkloadError
from workloads.interop.weight_facts import Expected, Facts
from workloads.interop.weight_files import Shape, Weights
from workloads.interop.weight_layouts import Sources, features, recognised

OR_RANDOM = ", or set it to null to start at random"
"""What a user whose weights are refused can always do."""


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """Weights that a recipe's key names.

    Args:
        key: the key.
        source: its value.
        file: the file, or the index of shards; None for a name in timm.
        weights: the tensors as they are there.
        names: where the tensors are, by our names.
        facts: what the source and the files beside the weights tell.
    """

    key: str
    source: str
    file: Path | None
    weights: Weights
    names: Sources
    facts: tuple[Facts, ...]

    def shapes(self) -> dict[str, Shape]:
        """Return the shapes by our names."""
        return {name: self._shape(sources) for name, sources in self.names.items()}

    def _shape(self, sources: tuple[str, ...]) -> Shape:
        shapes = [self.weights.shapes[source] for source in sources]
        return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def load(self) -> Callable[[str], Tensor]:
        """Read the tensors; return a function from our names to them.

        Raises:
            WorkloadError: when the file is damaged.
        """
        tensors = self.weights.load()
        return lambda name: _joined([tensors[source] for source in self.names[name]])

    def error(self, text: str) -> WorkloadError:
        """Return an error about the weights."""
        return WorkloadError(f"{self.key}: {self.source} {text}")


def _joined(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


SIZE_KEYS: Mapping[str, tuple[str, ...]] = {
    "patch_embed.proj.weight": ("model.vision.width", "", "model.vision.patch", "model.vision.patch"),
    "bert.embeddings.word_embeddings.weight": ("model.text.vocabulary", "model.text.width"),
    "bert.embeddings.position_embeddings.weight": ("model.text.positions", "model.text.width"),
}
"""Recipe keys of the sizes of tensors; empty for sizes that the recipe cannot change. Compared before others."""


def match(found: FoundWeights, module: nn.Module) -> InitialWeights:
    """Return which tensors a module's parameters use, by their names."""
    ours, theirs = parameter_names(module), found.names
    used = tuple(name for name in ours if name in theirs)
    missing = tuple(name for name in ours if name not in theirs)
    left_over = tuple(name for name in theirs if name not in set(ours))
    return InitialWeights(found.key, found.source, used, missing, left_over)


def check_sizes(found: FoundWeights, shapes: Mapping[str, Shape], module: nn.Module) -> None:
    """Compare the shapes of tensors with those of the parameters of the same names.

    Args:
        found: the weights.
        shapes: of their tensors, by our names, as they will be copied.
        module: that has the parameters.

    Raises:
        WorkloadError: when one differs.
    """
    expected: dict[str, Shape] = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for name in sorted(expected.keys() & shapes.keys(), key=lambda name: (name not in SIZE_KEYS, name)):
        if shapes[name] != expected[name]:
            raise found.error(_size_difference(name, shapes[name], expected[name]))


def _size_difference(name: str, theirs: Shape, ours: Shape) -> str:
    keys = SIZE_KEYS.get(name, ())
    fixes = [f"{key}={a}" for key, a, b in zip(keys, theirs, ours, strict=False) if key and a != b]
    fix = f"set {' '.join(dict.fromkeys(fixes))}" if fixes else "change the sizes under 'model'"
    return f"holds {name} of shape {list(theirs)}, where the model has {list(ours)}; {fix}{OR_RANDOM}"


def refusal(
    found: FoundWeights, missing: tuple[str, ...], extra: tuple[str, ...], wanted: str, own: tuple[str, ...]
) -> WorkloadError:
    """Return why weights do not fit: what they lack, and what they have that the model does not.

    Args:
        found: the weights.
        missing: what they lack.
        extra: what the model lacks.
        wanted: what would fit.
        own: beginnings of names that are no sign of another project.
    """
    names = [name for name in found.names if not name.startswith(own)] or list(found.names)
    reasons = [f"lacks {listed(missing)}"] if missing else []
    if extra:
        what = features(extra)
        reasons.append(f"has {listed(extra)}, which the model does not have{f': {what}' if what else ''}")
    likeness = f" ({recognised(names)})" if missing and not features(extra) else ""
    return found.error(f"{' and '.join(reasons)}{likeness}; choose {wanted} without that{OR_RANDOM}")


def listed(names: tuple[str, ...]) -> str:
    """Return some of the names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def compare_facts(found: FoundWeights, matched: InitialWeights, expected: Expected) -> InitialWeights:
    """Return the match with notes on facts that differ a little.

    Raises:
        WorkloadError: when facts of the weights differ from what the recipe's encoder computes with.
    """
    differences = [text for facts in found.facts for text in expected.differences(facts)]
    if differences:
        raise found.error(f"does not fit the recipe: {'; '.join(differences)}")
    notes = [note for facts in found.facts for note in expected.notes(facts)]
    return replace(matched, notes=tuple(dict.fromkeys(notes)))


def copy_tensors(module: nn.Module, matched: InitialWeights, read: Callable[[str], Tensor]) -> None:
    """Give a module's parameters and buffers the values of the tensors that it uses.

    Raises:
        WorkloadError: when a tensor does not consist of finite numbers; nothing is changed.
    """
    tensors, targets = {name: read(name) for name in matched.used}, module.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != targets[name].is_floating_point() or not tensor.isfinite().all():
            kind = "not-a-number or infinite values" if tensor.is_floating_point() else f"{tensor.dtype} values"
            raise WorkloadError(f"{matched.key}: {matched.source} holds {kind} in {name}; choose other weights")
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's parameters."""
    return tuple(name for name, _ in module.named_parameters())
