"""Recipes: immutable sections, strict loading, overrides."""
