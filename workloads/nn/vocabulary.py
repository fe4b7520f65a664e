"""Ids of the special tokens in BERT's vocabularies."""

PAD, CLS, MASK = 0, 101, 103
