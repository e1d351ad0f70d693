"""Faces by MediaPipe's face landmarker (Kartynnik et al. 2019, arXiv:1907.06724), where the
optional package `mediapipe` is installed: the oval around each, of 36 of its landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np

from raytrain import storage
from raytrain.errors import UserError

MOST = 16
"""Faces of one image."""
Oval = tuple[tuple[float, float], ...]


class Landmarker:
    """The model of a `.task` file."""

    def __init__(self, file: str, certainty: float) -> None:
        """Load it; UserError where the package or the file is not there."""
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise UserError(
                f"data.masks.options.detector = {file!r} is a model of MediaPipe, which is not "
                f"installed here ({error}); no face can be found. Install it on every machine "
                "that prepares (`pip install mediapipe`), or take another detector."
            ) from error
        if not storage.exists(file):
            raise UserError(
                f"data.masks.options.detector = {file!r} does not exist. Correct the path."
            )
        self.mediapipe: Any = mediapipe
        self.oval = [one.start for one in vision.FaceLandmarksConnections.FACE_LANDMARKS_FACE_OVAL]
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=storage.fetch(file)),
            num_faces=MOST,
            min_face_detection_confidence=certainty,
        )
        try:
            self.model: Any = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"data.masks.options.detector = {file!r} cannot be read by MediaPipe: {reason}. "
                "Take its face_landmarker.task."
            ) from error

    def find(self, pixels: np.typing.NDArray[np.uint8]) -> list[Oval]:
        """Return the oval of each face, corners (x, y) in pixels around it."""
        shown = self.mediapipe.Image(
            image_format=self.mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)
        )
        height, width = pixels.shape[:2]
        return [
            tuple((marks[i].x * width, marks[i].y * height) for i in self.oval)
            for marks in self.model.detect(shown).face_landmarks
        ]
