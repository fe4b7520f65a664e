"""Cluster files: parsed, checked against the tools that read them, and turned into node groups."""
