"""The driver on the head, the loop on the worker, checkpoints."""
