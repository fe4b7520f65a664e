"""Weights in from other projects' formats, trained models out."""

from workloads.interop.exported import load_exported

__all__ = ["load_exported"]
