"""A cache of decoded images in files, shared by all runs of a user on a machine: each image is decoded once."""
