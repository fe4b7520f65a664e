"""Decoded images that the runs on a machine share: each is decoded once, whoever asks for it."""
