"""Stable Diffusion 1.x as diffusers' train_text_to_image_lora.py trains it."""

from tests.families.references._ddpm import OBJECTIVES, TARGETS, loss

__all__ = ["OBJECTIVES", "TARGETS", "loss"]
