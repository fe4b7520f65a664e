"""Training: the driver on the head node, the loop on the workers, checkpoints, parallelism and recovery."""
