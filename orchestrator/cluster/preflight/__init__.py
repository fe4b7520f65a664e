"""What a run will need of a cluster, and whether it gets it: worked out before anything is started or paid for."""
