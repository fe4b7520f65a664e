"""The names in a trial's results that are not objectives."""

SAMPLES = "samples"
"""Samples that the trial has seen."""

RUNGS = "rungs"
"""The same in units of the first rung; HyperBand makes brackets of whole units."""

OUTCOME = "outcome"
"""How the trial ended, as a record's status; empty while it goes on."""

REASON = "reason"
"""Why it failed or was stopped; empty otherwise."""

LINEAGE = "lineage"
"""The run that the trial goes on with, as a record has it."""
