"""What a model takes of memory and of arithmetic, measured on this machine's CPU with real, small micro-batches."""
