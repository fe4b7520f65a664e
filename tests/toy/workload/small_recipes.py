"""Recipes of small models, for tests that train them and for tests that only read them."""

SWEPT = """\
workload: albef
data: {train: shards}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 30}
model: {preset: tiny}
"""
"""What a sweep may be over; its data need not be there."""

TRAINED = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 4}
scale: {workers: 1, cpus_per_worker: 0.5, object_store_mb: 100}
stream: {window: 64}
model:
  preset: tiny
  image_size: 32
  vision: {width: 64, depth: 2, heads: 2}
  text: {width: 64, layers: 1, fusion_layers: 1, heads: 2}
  text_weights: null
text: {max_tokens: 12}
contrastive: {queue_size: 64}
"""
"""Trains at some steps a second on one worker; it lacks its length, its data and its checkpoints."""

PACED = """\
workload: paced
batch: {micro_batches: 2, micro_batch_size: 4}
scale: {workers: 1, cpus_per_worker: 0.5, object_store_mb: 100}
stream: {window: 64}
"""
"""The same with the toy workload, which starts in half the time; see `toyland` for where it has to be installed."""

IMPORTED = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 4}
length: {epochs: 9}
scale: {cpus_per_worker: 0.5}
stream: {reader_cpus: 1}
model:
  image_size: 8
  embed_dim: 8
  vision: {patch: 4, width: 16, depth: 2, heads: 2}
  text: {width: 16, layers: 6, fusion_layers: 6, heads: 2, vocabulary: 120, positions: 20}
text: {max_tokens: 9}
contrastive: {queue_size: 12}
"""
"""The architecture of the official checkpoints that `official_albef` makes; it lacks its data."""
