"""Reading data sets: the index, WebDataset and Parquet shards, their sidecars, samples and images."""
