"""What a run of the ablation is measured by, on held-out samples: retrieval, and the losses of the fusion layers.

Shapes: B pairs of a batch, T distinct texts, I images, N image tokens, C their width, E embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workloads.albef.fusion import FusionObjectives, TextBatch, prepare_texts
from workloads.albef.model import AlbefInference
from workloads.albef.step import encoder_outputs
from workloads.albef.workload import AlbefWorkload
from workloads.contract import KeyedRandom, Sample
from workloads.downstream.ranking import Relevance, rank_by_similarity, rerank
from workloads.downstream.retrieval import Rankings, chance_metrics, ranking_metrics
from workloads.downstream.retrieval_metrics import RERANKED
from workloads.nn.packed_texts import PackedTexts
from workloads.objectives.contrastive import Similarities
from workloads.objectives.matching import KeyedChoices, matching_pairs
from workloads.transforms.pairs import EvaluationTransform

if TYPE_CHECKING:
    from ablation_training import Batches

MASKINGS = 8
"""How often the captions are masked, each time elsewhere: they are short."""

MATCHING_CHANCE = float(np.log(3) - 2 / 3 * np.log(2))
"""Loss of a matching head that knows no more than that one pair of three matches, in nats."""


def measure(
    workload: AlbefWorkload, samples: Sequence[Sample], held_out: Batches, captions: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return retrieval metrics and losses on held-out samples.

    Retrieval is ranked twice: by the contrastive similarity, and (`reranked/...`) by the matching head alone, which
    scores every pair of the gallery, so that rows without contrastive training can be compared.

    Args:
        workload: trained.
        samples: held-out samples.
        held_out: the same as batches.
        captions: token ids of the training captions, for the chance level of the masked words.
    """
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as inference:
        metrics = _retrieval(inference, workload, samples, held_out, match=True)
        return metrics | fusion_losses(workload, held_out, word_frequencies(captions, workload))


def contrastive_recalls(workload: AlbefWorkload, samples: Sequence[Sample], held_out: Batches) -> dict[str, float]:
    """Return the retrieval metrics of the contrastive similarity alone, as in `measure`."""
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as inference:
        return _retrieval(inference, workload, samples, held_out, match=False)


@torch.no_grad()
def _retrieval(
    inference: AlbefInference, workload: AlbefWorkload, samples: Sequence[Sample], held_out: Batches, match: bool
) -> dict[str, float]:
    """Return the retrieval metrics; with `match` those of the matching head as well."""
    config = workload.config
    transform = EvaluationTransform(config.model.image_hw, config.text)
    captions = [transform.captions(sample) for sample in samples]
    distinct = list(dict.fromkeys(caption for of_image in captions for caption in of_image))
    tokens = [transform.tokens(text) for text in distinct]
    input_ids, lengths = (torch.from_numpy(np.stack(column)) for column in zip(*tokens, strict=True))
    texts, text_TE = inference.pack_texts(input_ids, lengths)
    image_INC = torch.from_numpy(held_out.of_positions(np.arange(len(samples))).features["image"])
    images = inference.encode_images(image_INC)
    relevance = _relevance(distinct, captions)
    found = Rankings(
        rank_by_similarity(text_TE, images.embedding_BE, relevance, len(captions)),
        rank_by_similarity(images.embedding_BE, text_TE, relevance.reverse, len(distinct)),
    )
    metrics = ranking_metrics(found, "") | chance_metrics(relevance)
    if match:
        match_TI = match_all(inference, texts, images.tokens_BND)
        metrics |= ranking_metrics(_by_match(found, match_TI, relevance), RERANKED)
    return metrics


def _relevance(texts: Sequence[str], captions: Sequence[tuple[str, ...]]) -> Relevance:
    """Return which images have which of the distinct texts among their captions."""
    row_of = {text: row for row, text in enumerate(texts)}
    pairs = [(row_of[text], column) for column, of_image in enumerate(captions) for text in of_image]
    text_P, image_P = torch.tensor(pairs).unbind(1)
    return Relevance.of_pairs(text_P, image_P, len(texts), len(captions))


def _by_match(found: Rankings, match_TI: Tensor, relevance: Relevance) -> Rankings:
    """Return the whole gallery as the matching head orders it."""
    match_of_text, match_of_image = match_TI, match_TI.T
    return Rankings(
        rerank(found.texts, match_of_text.gather(1, found.texts.best_QK.long()), relevance),
        rerank(found.images, match_of_image.gather(1, found.images.best_QK.long()), relevance.reverse),
    )


def match_all(inference: AlbefInference, texts: PackedTexts, image_INC: Tensor) -> Tensor:
    """Return the matching logit of every text with every image, [T, I]."""
    return torch.stack([inference.match_grouped(texts, image_NC)[:, 1] for image_NC in image_INC], dim=1)


def word_frequencies(captions: Sequence[np.ndarray], workload: AlbefWorkload) -> Tensor:
    """Return the share of each word piece in captions, [CLS] left out, one added to every count, [V]."""
    pieces = torch.from_numpy(np.concatenate([ids[1:] for ids in captions])).long()
    counts = torch.bincount(pieces, minlength=workload.config.model.text.vocabulary) + 1
    return counts / counts.sum()


@torch.no_grad()
def fusion_losses(workload: AlbefWorkload, held_out: Batches, frequency_V: Tensor) -> dict[str, float]:
    """Return the matching and masked-language losses on held-out pairs, in nats, with what chance would give.

    The same for every row: negatives are drawn uniformly, masks and negatives by keys of their own, targets are hard.
    `loss_mlm_other_image` gives every masked caption the image of another pair: how much the image helps.
    """
    model, student = workload.model, workload.model.student
    sums: dict[str, float] = {}
    counts = {"itm": 0, "mlm": 0}
    for texts, image_B3HW, draw in _held_out_texts(workload, held_out):
        first = model.locked.first_outputs(student, image_B3HW, texts.input_ids_TL, texts.mask_TL)
        encoded = encoder_outputs(model, first, texts)
        equal_BB = torch.zeros(texts.captions, texts.captions)
        match_BB = torch.eye(texts.captions, dtype=torch.bool)
        pairs = matching_pairs(_choices(workload, draw).negatives(Similarities(equal_BB, equal_BB), match_BB))
        right = FusionObjectives(student, texts, pairs, None, 0.0)(encoded.states_TLD, encoded.image_BNC)
        other_BNC = encoded.image_BNC.roll(1, 0)
        wrong = FusionObjectives(student, texts, None, None, 0.0)(encoded.states_TLD, other_BNC)
        assert texts.masked is not None
        words = len(texts.masked.label)
        _add(sums, "loss_itm", right.matching, texts.captions)
        _add(sums, "loss_mlm", right.masked_language, words)
        _add(sums, "loss_mlm_other_image", wrong.masked_language, words)
        _add(sums, "chance_mlm", -frequency_V[texts.masked.label].log().mean(), words)
        counts["itm"] += texts.captions
        counts["mlm"] += words
    means = {name: total / counts["itm" if name == "loss_itm" else "mlm"] for name, total in sums.items()}
    return means | {"chance_itm": MATCHING_CHANCE}


def _add(sums: dict[str, float], name: str, mean: Tensor, count: int) -> None:
    sums[name] = sums.get(name, 0.0) + float(mean) * count


def _held_out_texts(workload: AlbefWorkload, held_out: Batches) -> Iterator[tuple[TextBatch, Tensor, KeyedRandom]]:
    """Yield the held-out pairs batch by batch, masked `MASKINGS` times, with the key of each batch's choices."""
    for masking in range(MASKINGS):
        for chosen in np.array_split(np.arange(len(held_out.rows)), max(1, len(held_out.rows) // held_out.size)):
            draw = KeyedRandom(("ablation", "held-out", masking, int(chosen[0])))
            batch = {name: torch.from_numpy(array) for name, array in held_out.of_positions(chosen).features.items()}
            texts = prepare_texts(batch, _choices(workload, draw), workload.config.compute)
            if texts.masked is not None and len(texts.masked.label):
                yield texts, batch["image"], draw


def _choices(workload: AlbefWorkload, draw: KeyedRandom) -> KeyedChoices:
    config = workload.config
    return KeyedChoices(draw, config.model.text.vocabulary, config.masking.probability, hard_negatives=False)
