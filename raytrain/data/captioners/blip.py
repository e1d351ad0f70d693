"""BLIP captions through transformers (Li et al. 2022, arXiv:2201.12086): beam search, an optional prompt to continue.

Uses the image processor and the tokenizer by hand, so that torchvision is not needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain.config import CaptionConfig
from raytrain.data.schema import content_key

if TYPE_CHECKING:
    import torch
    from PIL import Image

_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt")


def version(config: CaptionConfig) -> str:
    """Return the hash over the weights, the prompt and the generation settings: all that a caption depends on."""
    settings = (config.prompt, config.max_new_tokens, config.num_beams)
    return content_key("blip", _weights_hash(config.path), settings)


class Captioner:
    """BLIP on one device."""

    def __init__(self, config: CaptionConfig, device: torch.device) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        self.config, self.device, self.version = config, device, version(config)
        self.processor = BlipImageProcessorPil.from_pretrained(config.path)
        self.tokenizer = AutoTokenizer.from_pretrained(config.path)
        self.model = BlipForConditionalGeneration.from_pretrained(config.path).to(device).eval()

    def caption(self, pictures: list[Image.Image]) -> list[str]:
        """Return one caption for each picture, the prompt included."""
        import torch

        inputs: dict[str, Any] = dict(self.processor(images=pictures, return_tensors="pt"))
        if self.config.prompt:
            inputs |= dict(self.tokenizer([self.config.prompt] * len(pictures), return_tensors="pt"))
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            tokens = self.model.generate(
                **{name: value.to(self.device) for name, value in inputs.items()},
                max_new_tokens=self.config.max_new_tokens,
                num_beams=self.config.num_beams,
                do_sample=False,
            )
        captions: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [caption.strip() for caption in captions]


def tiny(folder: str, seed: int = 0) -> None:
    """Write a BLIP folder with tiny random weights, built offline: real classes, meaningless captions."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "star", "circle", "on", "of"]
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(vocab=str(root / "vocab.txt")).save_pretrained(root)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(root)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "vocab_size": len(words) + 1,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "projection_dim": 32,
    }
    special = {"pad_token_id": 0, "bos_token_id": len(words), "sep_token_id": 3, "eos_token_id": 3}
    config = BlipConfig(
        text_config=shape | text | special, vision_config=shape | {"image_size": 32, "patch_size": 8}, projection_dim=32
    )
    BlipForConditionalGeneration(config).save_pretrained(root)


def _weights_hash(path: str) -> str:
    root = Path(path)
    if not root.is_dir():
        return path  # a hub id names its weights
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in root.glob(pattern)}):
        digest.update(f"{file.name}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
