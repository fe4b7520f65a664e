"""What `fuseray plan` works out before a run: footprint, nodes, speed, cost, and what would make it fail."""
