"""Ids of the special tokens in BERT's vocabularies."""

PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
