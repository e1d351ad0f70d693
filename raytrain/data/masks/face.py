"""Masks of faces: white ovals around the frontal faces a detector finds.

Detectors, by `detector`: empty, the cascade that scikit-image brings (multi-block local binary
patterns, Liao et al. 2007); an `.xml` file, another cascade of that kind as OpenCV writes it
(faces of drawn people, for instance); an `.onnx` file, YuNet (Wu et al. 2023,
doi:10.1007/s11633-023-1423-y) through OpenCV, which finds turned and small faces too.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pydantic import Field

from raytrain import storage
from raytrain.config.data import MaskConfig
from raytrain.data.annotate import pretrained
from raytrain.data.image.image import BadImage
from raytrain.data.masks import Masker
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError
from raytrain.table import Table

READS_FILE = False
IGNORES = ("path", "prompt")
STEP = 1.2
"""Ratio of the window sizes a cascade looks through one after the other."""


class Box(NamedTuple):
    """A face's place in pixels."""

    left: float
    top: float
    width: float
    height: float


class Options(Table):
    """How faces are found and drawn."""

    detector: str = ""
    """Empty, an `.xml` cascade, or YuNet's `.onnx` file."""
    side: int = Field(256, ge=32)
    """Longer side in pixels of the image the detector sees. More finds smaller faces,
    and with a cascade more that are none."""
    smallest: int = Field(24, ge=8)
    """Shortest side of a face in pixels of that image."""
    certainty: float = Field(0.8, gt=0, lt=1)
    """Minimum score of a face, by YuNet; a cascade only says yes or no."""
    grow: float = Field(1.3, gt=0)
    """Size of the oval, relative to the box the detector gives."""
    background: float = Field(0.0, ge=0, le=1)
    """How much everything else counts."""
    blur: float = Field(0.005, ge=0)
    """Radius of a last Gaussian blur, as a share of the image's width."""
    none_found: Literal["white", "black", "reject"] = "reject"
    """An image without a face counts everywhere, nowhere, or is left out."""


def version(config: MaskConfig) -> str:
    """Return the hash over the detector and the settings."""
    options = Options(**config.options)
    own = pretrained.weights_hash(options.detector or _bundled(), "data.masks.options.detector")
    return content_key("face", own, options.model_dump(exclude={"detector"}))


def load(config: MaskConfig) -> Masker:
    """Load the detector."""
    return _Face(Options(**config.options))


class _Face:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.detector = (
            _YuNet(options) if options.detector.endswith(".onnx") else _Cascade(options)
        )

    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        scale = self.options.side / max(image.size)
        seen = image.resize(
            [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
        )
        boxes = self.detector.find(np.asarray(seen))
        if not boxes:
            return self._none_found(image)
        mask = Image.new("L", image.size, round(255 * self.options.background))
        draw = ImageDraw.Draw(mask)
        for box in boxes:
            across, down = image.width / seen.width, image.height / seen.height
            center = (box.left + box.width / 2) * across, (box.top + box.height / 2) * down
            half = (
                box.width / 2 * across * self.options.grow,
                box.height / 2 * down * self.options.grow,
            )
            draw.ellipse(
                (
                    center[0] - half[0],
                    center[1] - half[1],
                    center[0] + half[0],
                    center[1] + half[1],
                ),
                fill=255,
            )
        return (
            mask.filter(ImageFilter.GaussianBlur(self.options.blur * image.width))
            if self.options.blur
            else mask
        )

    def _none_found(self, image: Image.Image) -> Image.Image:
        if self.options.none_found == "reject":
            raise BadImage(
                'no face was found in it; data.masks.options.none_found = "white" or "black" '
                "would keep it"
            )
        return Image.new("L", image.size, 255 if self.options.none_found == "white" else 0)


class _Cascade:
    def __init__(self, options: Options) -> None:
        from skimage.feature import Cascade

        self.smallest = options.smallest
        file = options.detector or _bundled()
        if not file.endswith(".xml") or not storage.exists(file):
            raise UserError(
                "data.masks.options.detector must be the .xml file of a cascade or the .onnx file "
                f"of YuNet, got {file!r}, which is no such file. Correct the path, or leave it "
                "out for the detector that is built in."
            )
        try:
            self.cascade: Any = Cascade(storage.fetch(file))
        except (SyntaxError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"data.masks.options.detector = {file!r} is no cascade of local binary patterns "
                f"({type(error).__name__}). scikit-image reads these alone; Haar cascades are "
                "another kind."
            ) from error

    def find(self, pixels: np.typing.NDArray[np.uint8]) -> list[Box]:
        shorter = min(pixels.shape[:2])
        if shorter < self.smallest:
            return []
        found = self.cascade.detect_multi_scale(
            img=pixels,
            scale_factor=STEP,
            step_ratio=1,
            min_size=(self.smallest,) * 2,
            max_size=(shorter, shorter),
        )
        return [Box(box["c"], box["r"], box["width"], box["height"]) for box in found]


class _YuNet:
    def __init__(self, options: Options) -> None:
        import cv2

        self.smallest = options.smallest
        if not storage.exists(options.detector):
            raise UserError(
                f"data.masks.options.detector = {options.detector!r} does not exist. Correct the "
                "path."
            )
        try:
            self.net: Any = cv2.FaceDetectorYN.create(
                storage.fetch(options.detector), "", (320, 320), options.certainty
            )
        except cv2.error as error:
            raise UserError(
                f"data.masks.options.detector = {options.detector!r} cannot be read by OpenCV as "
                f"YuNet: {error.err}. Take the face_detection_yunet model of OpenCV's model zoo."
            ) from error

    def find(self, pixels: np.typing.NDArray[np.uint8]) -> list[Box]:
        self.net.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, faces = self.net.detect(
            np.ascontiguousarray(pixels[..., ::-1])
        )  # OpenCV's channel order is BGR
        boxes = (
            [] if faces is None else [Box(*(float(value) for value in face[:4])) for face in faces]
        )
        return [
            box
            for box in boxes
            if math.isfinite(sum(box)) and min(box.width, box.height) >= self.smallest
        ]


def _bundled() -> str:
    from skimage.data import lbp_frontal_face_cascade_filename

    return str(lbp_frontal_face_cascade_filename())
