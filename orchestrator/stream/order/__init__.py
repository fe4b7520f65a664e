"""The order of samples, and who runs which: pure functions."""
