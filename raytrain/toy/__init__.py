"""The toy world: drawn images with true captions, and tiny pretrained parts that learned them.

Everything that runs on SDXL runs on these folders too; only the folder is smaller.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
SD15 = WEIGHTS / "sd15"
"""A StableDiffusionPipeline folder of a few megabytes that knows the `flat` style only."""
CLIP = WEIGHTS / "clip"
"""A CLIPModel folder that knows every style: the judge of the toy world."""
