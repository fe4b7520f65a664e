"""How the workers of a run share the model: whole on each of them, or in shards."""
