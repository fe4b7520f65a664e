"""Data sets as stored: index, shards, samples."""
