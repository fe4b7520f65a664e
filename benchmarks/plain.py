"""The same training step written the plain way, as a peer to measure against.

The mathematics is that of `workloads.albef.workload` on the same parameters, in the order of work of the official ALBEF
code: one pass for matching pairs, one for wrong ones, one for masked texts, every word scored at every position, keys
and values of an image computed for every text that meets it, attention, AdamW and the teacher's update operation by
operation. No text is packed and nothing is shared.

Shapes: B pairs, L text tokens, N image tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.albef.model import AlbefModel, Encoders, Student
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom
from workloads.objectives.contrastive import Keys, Similarities, contrastive_loss, contrastive_targets, similarities
from workloads.objectives.masked_language import IGNORE_INDEX
from workloads.objectives.matching import RandomChoices


class PlainStep:
    """Trains on one micro-batch per step.

    Args:
        workload: built already; its parameters are trained.
        learning_rate: of AdamW.
        weight_decay: of AdamW, where it applies.
    """

    def __init__(self, workload: AlbefWorkload, learning_rate: float = 1e-4, weight_decay: float = 0.02) -> None:
        self._workload = workload
        groups = [
            {"params": list(group.parameters), "weight_decay": weight_decay * group.weight_decay}
            for group in workload.parameter_groups()
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=learning_rate, foreach=False)

    def run(self, step: int, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Run one step and return its losses."""
        model, config = self._workload.model, self._workload.config
        clock = Clock(step, 1_000_000, step, 1, KeyedRandom((0, "step", step)))
        self._optimizer.zero_grad()
        _move_teacher(model, config.distillation.momentum)
        losses, image_BE, text_BE = plain_losses(model, batch, self._workload.choices(clock), config.distillation.alpha)
        torch.stack(list(losses.values())).sum().backward()
        self._optimizer.step()
        model.queue.enqueue(image_BE, text_BE)
        return {name: float(loss.detach()) for name, loss in losses.items()}


def plain_losses(
    model: AlbefModel, batch: Mapping[str, Tensor], choices: RandomChoices, alpha: float
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the losses of a micro-batch, and the momentum features of images and texts, [B, E] each."""
    student, teacher, queue = model.student, model.teacher, model.queue
    length_B, ids_BL = batch["length"], batch["input_ids"][:, : int(batch["length"].max())].long()
    mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None]
    image_BND, text_BLD = encode_image(student, batch["image"]), encode_text(student, ids_BL, mask_BL)
    with torch.no_grad():
        taught_image_BND, taught_text_BLD = encode_image(teacher, batch["image"]), encode_text(teacher, ids_BL, mask_BL)
        taught = teacher.image_embedding(taught_image_BND[:, 0]), teacher.text_embedding(taught_text_BLD, mask_BL)
        keys = Keys(taught[0], queue.image_queue), Keys(taught[1], queue.text_queue)
        targets = contrastive_targets(similarities(*taught, *keys, student.temp), alpha)
    compared = similarities(
        student.image_embedding(image_BND[:, 0]), student.text_embedding(text_BLD, mask_BL), *keys, student.temp
    )
    own = Similarities(*(logits[:, : len(ids_BL)].detach() for logits in compared))
    losses = {
        "loss_itc": contrastive_loss(compared, targets),
        "loss_itm": _matching(student, text_BLD, mask_BL, image_BND, choices, own),
        "loss_mlm": _masked(student, teacher, ids_BL, mask_BL, image_BND, taught_image_BND, choices, alpha),
    }
    return losses, *taught


def _matching(
    student: Student, text_BLD: Tensor, mask_BL: Tensor, image_BND: Tensor, choices: RandomChoices, own: Similarities
) -> Tensor:
    negatives = choices.negatives(own, torch.eye(len(text_BLD), dtype=torch.bool, device=text_BLD.device))
    positive_BLD = fuse(student, text_BLD, mask_BL, image_BND)
    wrong_text, wrong_image = negatives.text_for_image, negatives.image_for_text
    negative_BLD = fuse(
        student,
        torch.cat([text_BLD, text_BLD[wrong_text]]),
        torch.cat([mask_BL, mask_BL[wrong_text]]),
        torch.cat([image_BND[wrong_image], image_BND]),
    )
    logits = student.itm_head(torch.cat([positive_BLD[:, 0], negative_BLD[:, 0]]))
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(text_BLD)] = 1
    return F.cross_entropy(logits, labels)


def _masked(
    student: Student,
    teacher: Encoders,
    ids_BL: Tensor,
    mask_BL: Tensor,
    image_BND: Tensor,
    taught_image_BND: Tensor,
    choices: RandomChoices,
    alpha: float,
) -> Tensor:
    masked = choices.masked(ids_BL)
    with torch.no_grad():
        soft_BLV = _words(teacher, masked.input_ids, mask_BL, taught_image_BND).softmax(-1)
    logits_BLV = _words(student, masked.input_ids, mask_BL, image_BND)
    hard = F.cross_entropy(logits_BLV.flatten(0, 1), masked.labels.flatten(), ignore_index=IGNORE_INDEX)
    soft_BL = -(soft_BLV * logits_BLV.log_softmax(-1)).sum(-1)
    return (1 - alpha) * hard + alpha * soft_BL[masked.labels != IGNORE_INDEX].mean()


def _words(encoders: Encoders, ids_BL: Tensor, mask_BL: Tensor, image_BND: Tensor) -> Tensor:
    states_BLD = fuse(encoders, encode_text(encoders, ids_BL, mask_BL), mask_BL, image_BND)
    return encoders.text_encoder.word_logits(states_BLD)


def encode_image(encoders: Encoders, image_B3HW: Tensor) -> Tensor:
    """Return image tokens [B, N, D]."""
    vit: Any = encoders.visual_encoder
    patches_BPD = vit.patch_embed(encoders.pixels(image_B3HW))
    states_BND = torch.cat([vit.cls_token.expand(len(patches_BPD), -1, -1), patches_BPD], 1) + vit.pos_embed
    for block in vit.blocks:
        query, key, value = block.attn.qkv(block.norm1(states_BND)).chunk(3, -1)
        mixed_BND = _attend(query, key, value, block.attn.num_heads, None, 0.0)
        states_BND = states_BND + block.attn.proj(mixed_BND)
        states_BND = states_BND + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(states_BND))))
    normed_BND: Tensor = vit.norm(states_BND)
    return normed_BND


def encode_text(encoders: Encoders, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the states after the text layers, [B, L, D]."""
    bert = encoders.bert
    embeddings: Any = bert.embeddings
    summed_BLD = bert.words(ids_BL) + embeddings.position_embeddings.weight[: ids_BL.shape[1]]
    states_BLD = embeddings.LayerNorm(summed_BLD + embeddings.token_type_embeddings.weight[0])
    states_BLD = F.dropout(states_BLD, embeddings.dropout, bert.training)
    for layer in bert.encoder.layer[: bert.text_layers]:
        states_BLD = _layer(layer, states_BLD, mask_BL, None)
    return states_BLD


def fuse(encoders: Encoders, states_BLD: Tensor, mask_BL: Tensor, image_BND: Tensor) -> Tensor:
    """Return the states of all tokens after the fusion layers, [B, L, D]."""
    for layer in encoders.bert.encoder.layer[encoders.bert.text_layers :]:
        states_BLD = _layer(layer, states_BLD, mask_BL, image_BND)
    return states_BLD


def _layer(layer: Any, states_BLD: Tensor, mask_BL: Tensor, image_BND: Tensor | None) -> Tensor:
    states_BLD = _attention(layer.attention, states_BLD, states_BLD, mask_BL)
    if image_BND is not None:
        states_BLD = _attention(layer.crossattention, states_BLD, image_BND, None)
    return _output(layer.output, F.gelu(layer.intermediate.dense(states_BLD)), states_BLD)


def _attention(attention: Any, states_BLD: Tensor, context: Tensor, mask_BM: Tensor | None) -> Tensor:
    maps = attention.self
    chance = attention.dropout if attention.training else 0.0
    mixed_BLD = _attend(maps.query(states_BLD), maps.key(context), maps.value(context), maps.heads, mask_BM, chance)
    return _output(attention.output, mixed_BLD, states_BLD)


def _output(output: Any, states: Tensor, residual_BLD: Tensor) -> Tensor:
    hidden_BLD = F.dropout(output.dense(states), output.dropout, output.training)
    normed_BLD: Tensor = output.LayerNorm(hidden_BLD + residual_BLD)
    return normed_BLD


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask_BM: Tensor | None, chance: float) -> Tensor:
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask_BM is not None:
        scores = scores + (~mask_BM).to(scores.dtype)[:, None, None] * -10000.0
    return (F.dropout(scores.softmax(-1), chance) @ value).transpose(1, 2).flatten(2)


@torch.no_grad()
def _move_teacher(model: nn.Module, momentum: float) -> None:
    student = dict(model.student.named_parameters())
    for name, parameter in model.teacher.named_parameters():
        parameter.copy_(parameter * momentum + student[name] * (1 - momentum))
