"""The verbs of `fuseray sweep`."""
