"""Cluster files: read, checked, and what they say about machines."""
