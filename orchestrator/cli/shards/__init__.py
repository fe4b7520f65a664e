"""The verbs of `fuseray shards`."""
