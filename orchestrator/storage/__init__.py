"""Access to local folders and object stores: a URI in, a file system that retries out; and a run's files there."""
