"""Transforms of stored samples: caption cleaning, tokenisation, image decoding and augmentation."""
