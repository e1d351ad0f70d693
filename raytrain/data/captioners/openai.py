"""Captions of a model behind an OpenAI-compatible endpoint, vLLM's for instance.

The images are sent to it.
"""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from raytrain.config.data import CaptionConfig
from raytrain.data.annotate._chat_endpoint import Endpoint, EndpointOptions
from raytrain.data.captioners import Captioner
from raytrain.data.image.image import BadImage
from raytrain.data.store.schema import content_key

PROMPT: str | None = (
    "Describe this image for someone who has to draw it, in at most 20 words. Reply with the "
    "description alone."
)
NEEDS_PATH = False
IGNORES = ("path", "revision", "num_beams")


class Options(EndpointOptions):
    """The endpoint, and how an image is sent."""

    max_side: int = Field(1024, ge=16)
    """Pixels of the longer side of what is sent; larger images are made smaller."""
    detail: Literal["", "auto", "low", "high"] = ""
    """How closely the model looks, where the endpoint lets one choose."""


def version(config: CaptionConfig) -> str:
    """Return the hash over endpoint, model, prompt and settings;
    the key and the pace are no part of it."""
    options = Options(**config.options)
    sent = (options.max_side, options.detail)
    return content_key(
        "openai", options.answers_depend_on(), _prompt(config), config.max_new_tokens, sent
    )


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Return a captioner that asks; nothing is loaded here."""
    return _Asking(config)


class _Asking:
    def __init__(self, config: CaptionConfig) -> None:
        self.config, self.options = config, Options(**config.options)
        self.endpoint = Endpoint(self.options, "data.captions.options")

    def caption(self, images: list[Image.Image]) -> list[str | BadImage]:
        """Ask for all captions at once."""
        sent = [self._url(image) for image in images]
        good = [self._question(url) for url in sent if not isinstance(url, BadImage)]
        answers = iter(self.endpoint.ask(good, self.config.max_new_tokens) if good else ())
        return [url if isinstance(url, BadImage) else next(answers) for url in sent]

    def _question(self, url: str) -> list[dict[str, Any]]:
        image = {"url": url} | ({"detail": self.options.detail} if self.options.detail else {})
        content = [
            {"type": "text", "text": _prompt(self.config)},
            {"type": "image_url", "image_url": image},
        ]
        return [{"role": "user", "content": content}]

    def _url(self, image: Image.Image) -> str | BadImage:
        buffer = io.BytesIO()
        try:
            small = image.convert("RGB")
            small.thumbnail(
                (self.options.max_side, self.options.max_side), Image.Resampling.LANCZOS
            )
            small.save(buffer, "JPEG", quality=92)
        except (OSError, ValueError) as error:
            return BadImage(f"cannot be captioned: {error}")
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _prompt(config: CaptionConfig) -> str:
    return config.prompt or PROMPT or ""
