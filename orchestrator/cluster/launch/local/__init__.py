"""A cluster of this machine alone."""
