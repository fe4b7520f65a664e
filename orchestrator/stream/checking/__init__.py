"""Looking at shards: verification, statistics, samples."""
