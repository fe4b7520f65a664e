"""Transforms of image-text pairs, for training and for evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from workloads.albef.config import AugmentConfig, TextConfig
from workloads.contract import BadSample, Features, KeyedRandom, Sample
from workloads.transforms.images import channels_first, decode, decoding, random_crop_box, random_flip, resize
from workloads.transforms.randaugment import rand_augment
from workloads.transforms.text import cached_tokenizer, clean_caption, encode


class Tokens(NamedTuple):
    """One encoded caption.

    Args:
        input_ids: int32 [max_tokens], zero padded.
        length: int32, 0-d: number of ids before the padding.
    """

    input_ids: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class PairTransform:
    """Augments an image and encodes one of its captions; the training transform of image-text models.

    Each process loads the tokenizer at its first use, so a pickled transform holds its settings only.

    Args:
        image_size: height and width of the result, in pixels.
        augment: crop, flip and RandAugment settings.
        text: tokenizer and caption limits.
    """

    image_size: tuple[int, int]
    augment: AugmentConfig
    text: TextConfig

    def __call__(self, sample: Sample, draw: KeyedRandom) -> Features:
        """Return `image` uint8 [3, H, W], `input_ids` int32 [max_tokens] and `length` int32 0-d.

        Raises:
            BadSample: when the image cannot be decoded or every caption is empty after cleaning.
            WorkloadError: when the tokenizer cannot be found.
        """
        return self.finish(sample, self.pixels(sample.image), draw)

    @property
    def decoding(self) -> str:
        """The name of the decoding: the versions of our code and of the libraries."""
        return decoding()

    def pixels(self, image: bytes) -> np.ndarray:
        """Decode an image file to uint8 [H, W, 3].

        Raises:
            BadSample: when it cannot be decoded.
        """
        return decode(image)

    def finish(self, sample: Sample, pixels: np.ndarray, draw: KeyedRandom) -> Features:
        """Return the features as `__call__` does, from decoded pixels, uint8 [H, W, 3].

        Raises:
            BadSample: when every caption is empty after cleaning.
            WorkloadError: when the tokenizer cannot be found.
        """
        tokens = encode_padded(self._pick_caption(sample, draw.child("caption")), self.text)
        image_HWC = self._augmented(pixels, draw)
        return {"image": channels_first(image_HWC), "input_ids": tokens.input_ids, "length": tokens.length}

    def _pick_caption(self, sample: Sample, draw: KeyedRandom) -> str:
        usable = usable_captions(sample, self.text)
        return usable[draw.numpy().integers(len(usable))] if len(usable) > 1 else usable[0]

    def _augmented(self, image_HWC: np.ndarray, draw: KeyedRandom) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        box = random_crop_box(width, height, self.augment.crop_scale, draw.child("crop"))
        image_HWC = resize(image_HWC, self.image_size, box)
        image_HWC = random_flip(image_HWC, self.augment.flip, draw.child("flip"))
        return rand_augment(image_HWC, self.augment.rand_augment, draw.child("rand_augment"))


@dataclass(frozen=True)
class EvaluationTransform:
    """Resizes whole images and encodes captions, without randomness.

    Args:
        image_size: height and width of the result, in pixels.
        text: tokenizer and caption limits.
    """

    image_size: tuple[int, int]
    text: TextConfig

    def image(self, sample: Sample) -> np.ndarray:
        """Return the whole image resized to uint8 [3, H, W] of `image_size`; the aspect ratio is not preserved.

        Raises:
            BadSample: when the image cannot be decoded.
        """
        return channels_first(resize(decode(sample.image), self.image_size))

    def captions(self, sample: Sample) -> tuple[str, ...]:
        """Return the sample's cleaned captions without empty ones.

        Raises:
            BadSample: when none is left.
        """
        return tuple(clean_caption(caption, self.text.max_words) for caption in usable_captions(sample, self.text))

    def tokens(self, caption: str) -> Tokens:
        """Clean and encode a caption.

        Raises:
            BadSample: when cleaning leaves nothing.
            WorkloadError: when the tokenizer cannot be found.
        """
        return encode_padded(caption, self.text)

    def pieces(self, tokens: Tokens) -> list[str]:
        """Return the word pieces of encoded tokens, with special tokens and without padding."""
        tokenizer = cached_tokenizer(self.text)
        return [tokenizer.id_to_token(int(token_id)) or "[UNK]" for token_id in tokens.input_ids[: int(tokens.length)]]


def encode_padded(caption: str, config: TextConfig) -> Tokens:
    """Clean and encode a caption, padded with zeros to `config.max_tokens`.

    Raises:
        BadSample: when cleaning leaves nothing.
        WorkloadError: when the tokenizer cannot be found.
    """
    ids = encode(cached_tokenizer(config), caption, config)
    input_ids = np.zeros(config.max_tokens, dtype=np.int32)
    input_ids[: len(ids)] = ids
    return Tokens(input_ids, np.asarray(len(ids), dtype=np.int32))


def usable_captions(sample: Sample, config: TextConfig) -> list[str]:
    """Return the captions that are not empty after cleaning.

    Raises:
        BadSample: when there is none.
    """
    usable = [caption for caption in sample.captions if clean_caption(caption, config.max_words).strip()]
    if not usable:
        raise BadSample("caption is empty", f"none of {len(sample.captions)} captions has a word")
    return usable
