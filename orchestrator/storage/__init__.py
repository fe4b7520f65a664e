"""One door to object storage."""
