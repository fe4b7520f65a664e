"""The science: models, objectives, corpora and tasks. Knows no cluster."""
