"""Parallelism: how the workers of a run share the model, replicated (data parallel) or sharded (FSDP)."""
