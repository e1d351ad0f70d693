"""Probability of one label (a watermark, nudity, a drawing),
by any image classification model of transformers."""

from __future__ import annotations

from PIL import Image

from raytrain.config.data import ScoreConfig
from raytrain.data.annotate import pretrained
from raytrain.data.scores import Scorer
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError, unknown
from raytrain.table import Table


class Options(Table):
    """Settings of the classifier."""

    label: str = ""
    """Name of the label whose probability is the score; the model's settings list them."""


def version(config: ScoreConfig) -> str:
    """Return the hash over weights and label."""
    weights = pretrained.weights_hash(config.path, f"path of the score {config.name!r}")
    return content_key("classifier", weights, Options(**config.options).model_dump())


def load(config: ScoreConfig) -> Scorer:
    """Load the model of `path`; UserError unless it knows the label."""
    return _Classifier(config)


class _Classifier:
    def __init__(self, config: ScoreConfig) -> None:
        from transformers import AutoModelForImageClassification

        setting = f"path of the score {config.name!r}"
        self.model = pretrained.model(AutoModelForImageClassification, config.path, setting)
        self.processor = pretrained.image_processor(config.path, setting)
        labels = {name: number for number, name in self.model.config.id2label.items()}
        label = Options(**config.options).label
        if not label:
            raise UserError(
                f"options.label of the score {config.name!r} is empty; choose one of "
                f"{', '.join(sorted(labels))}."
            )
        if label not in labels:
            raise unknown(f"label (options.label of the score {config.name!r})", label, labels)
        self.number = labels[label]

    def score(self, images: list[Image.Image]) -> list[float]:
        return pretrained.scores(images, self._scores)

    def _scores(self, images: list[Image.Image]) -> list[float]:
        import torch

        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"].to(
            self.model.device
        )
        with torch.inference_mode():
            logits = self.model(pixel_values=pixels).logits
        independent = (
            self.model.config.problem_type == "multi_label_classification" or logits.shape[1] == 1
        )
        shares = torch.sigmoid(logits) if independent else torch.softmax(logits, dim=1)
        return [float(share) for share in shares[:, self.number].cpu()]
