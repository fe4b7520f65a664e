"""Building shards from images and captions, indexing existing shards, verifying them, and their statistics."""
