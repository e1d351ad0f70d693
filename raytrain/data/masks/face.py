"""Masks of faces: white ovals around the frontal faces a detector finds.

Detectors, by `detector`: empty, the cascade that scikit-image brings (multi-block local binary
patterns, Liao et al. 2007); an `.xml` file, another cascade of that kind as OpenCV writes it
(faces of drawn people, for instance); an `.onnx` file, YuNet (Wu et al. 2023,
doi:10.1007/s11633-023-1423-y) through OpenCV, which finds turned and small faces too; a `.task`
file, MediaPipe's face landmarker, which gives the oval of the face itself.
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
from raytrain.data.masks import Masker, _mediapipe
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
    oval: tuple[tuple[float, float], ...] = ()
    """Corners (x, y) around the face, where the detector gives them."""

    def scaled(self, across: float, down: float) -> Box:
        """Return the place in an image so many times as wide and high."""
        oval = tuple((x * across, y * down) for x, y in self.oval)
        return Box(
            self.left * across, self.top * down, self.width * across, self.height * down, oval
        )


class Options(Table):
    """How faces are found and drawn."""

    detector: str = ""
    """Empty, an `.xml` cascade, YuNet's `.onnx` file, or MediaPipe's `.task` file."""
    side: int = Field(256, ge=32)
    """Longer side in pixels of the image the detector sees. More finds smaller faces,
    and with a cascade more that are none."""
    smallest: int = Field(24, ge=8)
    """Shortest side of a face in pixels of that image."""
    certainty: float = Field(0.8, gt=0, lt=1)
    """Minimum score of a face, by YuNet and MediaPipe; a cascade only says yes or no."""
    grow: float | None = Field(None, gt=0)
    """Size of the oval, relative to what the detector gives; default: 1.3 of a box, 1 of
    MediaPipe's oval."""
    background: float = Field(0.0, ge=0, le=1)
    """How much everything else counts; .05 in laksjdjf/sd-trainer."""
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


class Finder:
    """Finds the faces of images."""

    def __init__(self, options: Options) -> None:
        """Load the detector."""
        self.options = options
        self.detector: _YuNet | _Cascade | _MediaPipe
        if options.detector.endswith(".task"):
            self.detector = _MediaPipe(options)
        elif options.detector.endswith(".onnx"):
            self.detector = _YuNet(options)
        else:
            self.detector = _Cascade(options)

    def find(self, image: Image.Image) -> list[Box]:
        """Return the places of faces, in pixels of the image."""
        scale = self.options.side / max(image.size)
        seen = image.resize(
            [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
        )
        across, down = image.width / seen.width, image.height / seen.height
        return [box.scaled(across, down) for box in self.detector.find(np.asarray(seen))]


class _Face:
    def __init__(self, options: Options) -> None:
        self.options, self.finder = options, Finder(options)

    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        boxes = self.finder.find(image)
        if not boxes:
            return self._none_found(image)
        mask = Image.new("L", image.size, round(255 * self.options.background))
        draw = ImageDraw.Draw(mask)
        for box in boxes:
            if box.oval:
                draw.polygon(_around(box, self.options.grow or 1.0), fill=255)
            else:
                draw.ellipse(
                    _around(Box(*box[:4], _corners(box)), self.options.grow or 1.3), fill=255
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


def _around(box: Box, grow: float) -> list[tuple[float, float]]:
    """Return a face's corners, grown from the center of its box."""
    x, y = box.left + box.width / 2, box.top + box.height / 2
    return [(x + grow * (a - x), y + grow * (b - y)) for a, b in box.oval]


def _corners(box: Box) -> tuple[tuple[float, float], ...]:
    return (box.left, box.top), (box.left + box.width, box.top + box.height)


class _MediaPipe:
    def __init__(self, options: Options) -> None:
        self.smallest = options.smallest
        self.model = _mediapipe.Landmarker(options.detector, options.certainty)

    def find(self, pixels: np.typing.NDArray[np.uint8]) -> list[Box]:
        boxes = []
        for oval in self.model.find(pixels):
            xs, ys = zip(*oval, strict=True)
            left, top = min(xs), min(ys)
            boxes.append(Box(left, top, max(xs) - left, max(ys) - top, oval))
        return [box for box in boxes if min(box.width, box.height) >= self.smallest]


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
        boxes = [] if faces is None else [_box(face) for face in faces]
        return [
            box
            for box in boxes
            if math.isfinite(sum(box[:4])) and min(box.width, box.height) >= self.smallest
        ]


def _box(face: Any) -> Box:
    left, top, width, height = (float(value) for value in face[:4])
    return Box(left, top, width, height)


def _bundled() -> str:
    from skimage.data import lbp_frontal_face_cascade_filename

    return str(lbp_frontal_face_cascade_filename())
