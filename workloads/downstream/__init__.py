"""Tasks that measure a trained model."""
