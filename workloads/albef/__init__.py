"""Workloads for pre-training: a model together with its objectives."""
