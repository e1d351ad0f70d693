"""What captioners with weights of transformers share: loading, the hash that names them,
generation batch by batch.

Image processors are the ones on Pillow, so that torchvision is not needed and captions are the
same where it is installed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from pydantic import Field

from raytrain import mirror
from raytrain.config.data import CaptionConfig
from raytrain.data.image.image import BadImage
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError
from raytrain.table import Table

if TYPE_CHECKING:
    import torch

WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model", "*.jinja", "*.onnx", "*.csv")
_REFUSED = (OSError, ValueError, ZeroDivisionError)
"""What image libraries raise on an image they cannot read, or cannot bring to the size a model
wants."""
Inputs = Callable[[list[Image.Image]], dict[str, Any]]


class Options(Table):
    """`[data.captions] options` of every captioner with weights of transformers."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the weights; fp16 is for accelerators."""
    sample: bool = False
    """Draw each word instead of searching with beams; every image has its own draws,
    whatever batch it is in."""
    top_k: int = Field(40, ge=1)
    temperature: float = Field(0.65, gt=0)
    seed: int = Field(0, ge=0, lt=2**31)
    """The last three matter when drawing only."""


def prompt(config: CaptionConfig, default: str | None) -> str | None:
    """Return what the captioner is asked: the config's prompt, or its own."""
    return default if config.prompt is None else config.prompt


def version(name: str, config: CaptionConfig, default: str | None) -> str:
    """Return the hash over all that a caption of this captioner depends on."""
    settings = (
        prompt(config, default),
        config.max_new_tokens,
        config.num_beams,
        Options(**config.options).model_dump(),
    )
    return content_key(name, weights(config), settings)


def weights(config: CaptionConfig) -> str:
    """Return the content hash of a folder's weights, tokenizer and settings; for a hub id,
    it and its revision."""
    root = Path(mirror.local(config.path))
    if root.is_dir():
        if config.revision is not None:
            raise UserError(
                f"data.captions.revision = {config.revision!r} is of a hub id, and path "
                f"{config.path!r} is a folder here; it would have no effect. Leave it out."
            )
        files = sorted({file for pattern in WEIGHTS for file in root.glob(pattern)})
        return _hash(
            tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        )
    if config.path.startswith((".", "/", "~")) or config.path.count("/") != 1:
        raise UserError(
            f"data.captions.path must be a folder or a hub id (owner/name), got {config.path!r}; "
            "there are no weights to caption with. Correct the path."
        )
    return f"{config.path}@{config.revision or 'main'}"


@contextlib.contextmanager
def loading(config: CaptionConfig, what: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments that `from_pretrained` takes for the config's path;
    a path that does not fit is a UserError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    weights(config)
    try:
        path = mirror.local(config.path)
        yield {"pretrained_model_name_or_path": path, "revision": config.revision or "main"}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        ImportError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data.captions.path {config.path!r} must hold {what} with its tokenizer and image "
            f"processor; captioner {config.captioner!r} could not load it: {reason} Correct the "
            "path, or choose the captioner it is for."
        ) from error


def pretrained(kind: Any, config: CaptionConfig, source: dict[str, Any]) -> Any:
    """Load a model of this class whole: weights that the path lacks would be random ones,
    so they are an error."""
    import torch
    from transformers import PreTrainedConfig

    found = PreTrainedConfig.get_config_dict(**source)[0].get("model_type")
    wanted = kind.config_class.model_type if getattr(kind, "config_class", None) else found
    if found != wanted:
        raise ValueError(f"it is a {found!r} model, not {wanted!r}.")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
        Options(**config.options).precision
    ]
    model, report = kind.from_pretrained(**source, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        raise ValueError(f"it lacks the weights {', '.join(sorted(report['missing_keys'])[:3])}.")
    return model


class LocalCaptioner:
    """A transformers model on one device, its way from images to inputs,
    and the tokenizer its answers are read with."""

    def __init__(
        self,
        config: CaptionConfig,
        model: Any,
        inputs: Inputs,
        tokenizer: Any,
        device: str,
        *,
        answers: bool = False,
    ) -> None:
        """Take a model and `inputs`, which makes its inputs of RGB images; `answers`:
        the prompt is no part of the caption."""
        import torch

        self.config, self.inputs, self.tokenizer, self.answers = config, inputs, tokenizer, answers
        self.options = Options(**config.options)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()

    def caption(self, images: list[Image.Image]) -> list[str | BadImage]:
        """Return one caption for each image in order, or why this image cannot be captioned."""
        import torch

        ready = [_in_colors(image) for image in images]
        good = [image for image in ready if not isinstance(image, BadImage)]
        try:
            return _merge(ready, self._captions(good))
        except _REFUSED:
            ready = [
                image if isinstance(image, BadImage) else self._checked(image) for image in ready
            ]
            accepted = [image for image in ready if not isinstance(image, BadImage)]
            if len(accepted) == len(good):
                raise
            return _merge(ready, self._captions(accepted))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"captioner {self.config.captioner!r} ran out of memory on {self.device} with "
                f"{len(images)} images at once. Set a smaller data.encode.batch, or "
                'data.captions.options.precision = "bf16".'
            ) from error

    def _checked(self, image: Image.Image) -> Image.Image | BadImage:
        try:
            self.inputs([image])
        except _REFUSED as error:
            return _bad(error)
        return image

    def _captions(self, images: list[Image.Image]) -> list[str]:
        if not images:
            return []
        if self.options.sample:
            return [self._draw(image) for image in images]
        return self._generate(images, num_beams=self.config.num_beams, do_sample=False)

    def _draw(self, image: Image.Image) -> str:
        import torch

        pixels = zlib.crc32(image.tobytes(), zlib.crc32(repr(image.size).encode()))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed((self.options.seed << 32) + pixels)
            drawing = {"top_k": self.options.top_k, "temperature": self.options.temperature}
            return self._generate([image], num_beams=1, do_sample=True, **drawing)[0]

    def _generate(self, images: list[Image.Image], **settings: Any) -> list[str]:
        import torch

        inputs = {name: self._placed(value) for name, value in self.inputs(images).items()}
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs, max_new_tokens=self.config.max_new_tokens, **settings
            )
        if self.answers:
            tokens = _answer(tokens, inputs["input_ids"])
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        return (
            value.to(self.device, self.model.dtype)
            if value.is_floating_point()
            else value.to(self.device)
        )


def _answer(tokens: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Return what follows the question; models with an encoder do not repeat it."""
    length = asked.shape[1]
    repeated = tokens.shape[1] >= length and bool((tokens[:, :length] == asked).all())
    return tokens[:, length:] if repeated else tokens


def _in_colors(image: Image.Image) -> Image.Image | BadImage:
    try:
        return image.convert("RGB")
    except _REFUSED as error:
        return _bad(error)


def _bad(error: Exception) -> BadImage:
    return BadImage(f"cannot be captioned: {(str(error) or type(error).__name__).splitlines()[0]}")


def _merge(ready: list[Image.Image | BadImage], captions: list[str]) -> list[str | BadImage]:
    texts = iter(captions)
    return [item if isinstance(item, BadImage) else next(texts) for item in ready]


@functools.lru_cache(maxsize=8)
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(f"{Path(name).name}\0".encode())
        with open(name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
