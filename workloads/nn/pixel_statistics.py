"""Means and standard deviations that pixels are normalised by; red, green and blue in [0, 1]. Imports no torch."""

RGB = tuple[float, float, float]

CLIP_MEAN: RGB = (0.48145466, 0.4578275, 0.40821073)
"""Mean over CLIP's training images (Radford et al. 2021)."""

CLIP_STD: RGB = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation over CLIP's training images."""
