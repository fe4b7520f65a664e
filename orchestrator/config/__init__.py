"""Configuration: recipes, sweeps, clusters and prices, read strictly from YAML into immutable sections."""
