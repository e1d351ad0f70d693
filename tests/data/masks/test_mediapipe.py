"""Face masks by MediaPipe's oval, by a stand-in for the package, whose model is no part of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from raytrain.config.data import MaskConfig
from raytrain.data import masks
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError
from tests.data.masks.test_masks import astronaut, make


class _Landmarks:
    """Stands in for the package mediapipe, whose model is no part of it: the calls of its 1.2."""

    def __init__(self, faces: list[list[tuple[float, float]]]) -> None:
        self.faces, self.options, self.seen = faces, SimpleNamespace(), np.zeros(0)

    def modules(self) -> dict[str, Any]:
        corners = [SimpleNamespace(start=number, end=(number + 1) % 3) for number in range(3)]
        image = SimpleNamespace
        vision = SimpleNamespace(
            FaceLandmarksConnections=SimpleNamespace(FACE_LANDMARKS_FACE_OVAL=corners),
            FaceLandmarkerOptions=SimpleNamespace,
            FaceLandmarker=SimpleNamespace(create_from_options=self.create),
        )
        python = SimpleNamespace(BaseOptions=SimpleNamespace, vision=vision)
        package = SimpleNamespace(Image=image, ImageFormat=SimpleNamespace(SRGB="srgb"))
        names = {"mediapipe": package, "mediapipe.tasks": SimpleNamespace()}
        return names | {"mediapipe.tasks.python": python}

    def create(self, options: Any) -> Any:
        if Path(options.base_options.model_asset_path).read_bytes() != b"model":
            raise RuntimeError("Unable to open zip archive.")
        self.options = options
        return self

    def detect(self, image: Any) -> Any:
        assert image.image_format == "srgb"
        self.seen = image.data
        marks = [[SimpleNamespace(x=x, y=y) for x, y in face] for face in self.faces]
        return SimpleNamespace(face_landmarks=marks)


def test_mediapipes_oval_is_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corners = [(0.25, 0.25), (0.75, 0.25), (0.5, 0.75)]
    package = _Landmarks([corners])
    for name, module in package.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "face.task").write_bytes(b"model")
    options = {"detector": str(tmp_path / "face.task"), "blur": 0.0, "side": 64, "certainty": 0.4}
    options["smallest"] = 8
    image = astronaut(200, 100)
    mask = make(MaskConfig(kind="face", options=options), image)
    drawn = Image.new("L", (200, 100))
    ImageDraw.Draw(drawn).polygon([(x * 200, y * 100) for x, y in corners], fill=255)
    assert (np.asarray(mask) == np.asarray(drawn)).all()
    assert package.seen.shape == (32, 64, 3)
    assert package.options.min_face_detection_confidence == 0.4
    grown = np.asarray(make(MaskConfig(kind="face", options={**options, "grow": 1.2}), image))
    assert grown[np.asarray(mask) == 255].all()
    assert grown.sum() > 1.3 * np.asarray(mask).sum()
    package.faces = []
    with pytest.raises(BadImage, match="no face"):
        make(MaskConfig(kind="face", options=options), image)
    (tmp_path / "face.task").write_bytes(b"other")
    with pytest.raises(UserError, match=r"cannot be read by MediaPipe: Unable to open"):
        make(MaskConfig(kind="face", options=options), image)


def test_without_mediapipe_its_model_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (tmp_path / "face.task").write_bytes(b"model")
    options = {"detector": str(tmp_path / "face.task")}
    with pytest.raises(UserError, match="MediaPipe, which is not installed here"):
        masks.load("face").load(MaskConfig(kind="face", options=options))
