"""Captioners: one a file, the file's name is its name in `[data.captions] captioner`.

A captioner module offers
    version(config: CaptionConfig) -> str          identifies weights, prompt and settings; imports no model
    class Captioner(config: CaptionConfig, device: torch.device)
        version: str                                the same
        caption(pictures: list[PIL.Image.Image]) -> list[str]
"""
