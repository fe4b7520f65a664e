"""The verbs of `fuseray sweep`: run, status and report."""
