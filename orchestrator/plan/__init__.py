"""What `fuseray plan` works out before a run: footprint, machines, speed, cost, and what is in its way.

What a run will need of a cluster, and whether it gets it: worked out before anything is started or paid for.

What a model takes of memory and of arithmetic, measured on this machine's CPU with real, small micro-batches.
"""
