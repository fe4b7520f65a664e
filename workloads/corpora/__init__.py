"""Builders of image-text corpora from raw sources."""
