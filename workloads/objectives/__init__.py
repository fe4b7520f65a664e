"""Training objectives: the losses and what they draw."""
