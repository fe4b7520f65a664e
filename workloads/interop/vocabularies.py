"""The vocabulary that a BERT was trained with, against that of the recipe's tokenizer.

With another vocabulary the word embeddings belong to other words, and training starts from noise without any error.
"""

from __future__ import annotations

from pathlib import Path

from workloads.albef.config import PairsConfig
from workloads.contract import WorkloadError
from workloads.interop.model_sources import cached, first_in
from workloads.interop.weight_facts import describes
from workloads.transforms.text import VOCABULARY_FILES, read_tokenizer, tokenizer_file

KEY = "model.text_weights"


def check_vocabulary(config: PairsConfig, weights: Path | None) -> None:
    """Compare the vocabulary beside the text weights with that of `text.tokenizer`, where this machine has both.

    Args:
        config: the recipe's.
        weights: the file of the text weights, or the index of its shards.

    Raises:
        WorkloadError: when the tokenizer gives a word piece another id than the weights were trained with.
    """
    theirs = first_in(weights.parent, VOCABULARY_FILES) if weights is not None and describes(weights) else None
    name = config.text.tokenizer
    ours = tokenizer_file(name) or cached(name, VOCABULARY_FILES)
    if theirs is None or ours is None or theirs.resolve() == ours.resolve():
        return
    trained, used = read_tokenizer(theirs).get_vocab(), read_tokenizer(ours).get_vocab()
    other = [token for token, number in used.items() if trained.get(token) != number]
    if other:
        token = min(other, key=used.__getitem__)
        raise WorkloadError(
            f"{KEY}: {config.model.text_weights} was trained with another vocabulary than text.tokenizer ({name}) has: "
            f"{token!r} is {used[token]} there and {trained.get(token, 'absent')} in {theirs}, and {len(other):,} of "
            f"{len(used):,} word pieces differ; set text.tokenizer={theirs.parent}"
        )
