"""Encoders, fusion layers, heads, the momentum teacher and the feature queue."""
