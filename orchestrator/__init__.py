"""The engine: streams data, runs workers, keeps checkpoints, tracks runs. Knows no model."""
