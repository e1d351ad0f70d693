"""Annotations: what models say of images, and what becomes of captions."""
