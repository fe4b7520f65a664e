"""Building shards from images and captions."""
