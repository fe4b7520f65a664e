"""Searching hyperparameters with Ray Tune."""
