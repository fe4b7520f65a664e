"""Measuring a model on held-out samples: in this process, by a pool of actors, or by the workers of a run."""
