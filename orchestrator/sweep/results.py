"""The names in a trial's results that are not objectives."""

SAMPLES = "samples"
"""Samples that the trial has seen."""

RUNGS = "rungs"
"""The same in units of the first rung; HyperBand makes brackets of whole units."""

WHOLE = "whole"
"""Whether the trial has come to its end."""

FAILED = "failed"
"""Why the trial failed for good; absent otherwise."""

RUN = "run"
"""The name of the trial's run, which is another one after it took over a checkpoint."""
