"""Stored samples in, tensors out: caption cleaning, tokenisation, decoding and augmentation."""
