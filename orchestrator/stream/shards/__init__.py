"""Shards: built, indexed, verified and described.

Building shards from images and captions.

Looking at shards: verification, statistics, samples.

Making the index of shards that exist.
"""
