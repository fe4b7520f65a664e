"""Making the index of shards that exist."""
