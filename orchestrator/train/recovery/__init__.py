"""A run that goes on by itself: what is decided when workers or machines fail, and what carries it out."""
