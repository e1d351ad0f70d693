"""raytrain: images in, tuned diffusion weights out."""

__version__ = "0.1.0"
