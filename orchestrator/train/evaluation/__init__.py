"""Measuring the checkpoints of runs: after the training, beside it, or by its workers."""
