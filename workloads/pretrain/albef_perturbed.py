"""ALBEF's fusion objectives as a function of perturbations in embedding space.

A text's perturbation is added to the word embeddings of the caption and of its masked version; an image's to the
image encoder's output tokens, or to its patch embeddings before class token and positions.

Shapes: B captions and images, T texts (captions, then masked captions), L text tokens, N image tokens, P patches,
D text width, C image width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workloads.nn.vision import tokens_of_patches
from workloads.objectives.adversarial import Perturbations, Prediction
from workloads.pretrain.albef_fusion import FusionTask
from workloads.pretrain.albef_model import Encoded


@dataclass(frozen=True, slots=True)
class PerturbedFusion:
    """The fusion objectives under perturbations; of the encoders, a pass re-runs those that read a perturbed input.

    Args:
        task: the objectives.
        encoded: what to perturb, and what stands in for what is not perturbed.
        patches_BPC: patch embeddings to perturb instead of the image tokens.
    """

    task: FusionTask
    encoded: Encoded
    patches_BPC: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What perturbations are added to, by modality: words [B, L, D], image tokens [B, N, C] or patches."""
        words_BLD = self.encoded.words_TLD[: self.task.texts.captions]
        return {"text": words_BLD, "image": self.encoded.image_BNC if self.patches_BPC is None else self.patches_BPC}

    def __call__(self, perturbations: Perturbations) -> Prediction:
        """Return loss and logits with the perturbations of `text` and `image`, each shaped as its input."""
        states_TLD, image_BNC = self._states(perturbations.get("text")), self._image(perturbations.get("image"))
        losses = self.task(states_TLD, image_BNC)
        return Prediction(losses.total, losses.logits)

    def _states(self, perturbation_BLD: Tensor | None) -> Tensor:
        if perturbation_BLD is None:
            return self.encoded.states_TLD
        words_TLD, texts = self.encoded.words_TLD, self.task.texts
        versions = len(words_TLD) // texts.captions
        return self.task.student.bert.encode(words_TLD + perturbation_BLD.repeat(versions, 1, 1), texts.mask_TL)

    def _image(self, perturbation: Tensor | None) -> Tensor:
        if perturbation is None:
            return self.encoded.image_BNC
        if self.patches_BPC is None:
            return self.encoded.image_BNC + perturbation
        return tokens_of_patches(self.task.student.visual_encoder, self.patches_BPC + perturbation)
