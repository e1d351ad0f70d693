"""Every score plug-in on real photographs: the contract, then what each of them does."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from skimage import data

from raytrain import plugins
from raytrain.config.data import ScoreConfig
from raytrain.data import scores
from raytrain.errors import UserError
from tests.data import tiny_models

KINDS = plugins.names("data.scores")
CLIP = str(Path(plugins.__file__).parent / "toy" / "weights" / "clip")


def head(
    file: Path,
    sizes: tuple[int, ...],
    prefix: str = "layers.",
    numbers: tuple[int, ...] = (0, 2, 4, 6, 7),
) -> str:
    """Write a chain of linear layers as LAION's predictor names them."""
    draws = torch.Generator().manual_seed(0)
    tensors = {}
    for number, (inputs, outputs) in zip(numbers, pairwise(sizes), strict=False):
        tensors[f"{prefix}{number}.weight"] = torch.randn(outputs, inputs, generator=draws)
        tensors[f"{prefix}{number}.bias"] = torch.randn(outputs, generator=draws)
    save_file(tensors, file)
    return str(file)


@pytest.fixture(scope="module")
def width() -> int:
    from raytrain.clip import ClipModel

    return ClipModel(CLIP).embed_images([Image.new("RGB", (9, 9))]).shape[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_models.classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def config(model: str, width: int, tmp_path: Path) -> Callable[..., ScoreConfig]:
    """Return a working config of a kind; keyword arguments are its options."""

    def make(kind: str, **options: Any) -> ScoreConfig:
        path = {"classifier": model, "aesthetic": CLIP}.get(kind, "")
        if kind == "aesthetic":
            options = {"head": head(tmp_path / "head.safetensors", (width, 64, 8, 1)), **options}
        if kind == "classifier":
            options = {"label": "watermark", **options}
        return ScoreConfig(name="mine", kind=kind, path=path, options=options)

    return make


def photographs() -> list[Image.Image]:
    return [
        Image.fromarray(getattr(data, name)()).convert("RGB")
        for name in ("coffee", "astronaut", "chelsea", "rocket")
    ]


def score(config: ScoreConfig, images: list[Image.Image]) -> list[float]:
    return scores.load(config.kind).load(config).score(images)


def test_the_known_kinds_are_there() -> None:
    assert {"sharpness", "aesthetic", "classifier"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_gets_its_own_score_whatever_batch_it_is_in(
    kind: str, config: Callable[..., ScoreConfig]
) -> None:
    scorer = scores.load(kind).load(config(kind))
    together = scorer.score(photographs())
    assert len(together) == 4
    assert len(set(together)) == 4
    assert all(type(value) is float and math.isfinite(value) for value in together)
    alone = [scorer.score([image])[0] for image in photographs()]
    assert alone == pytest.approx(together, rel=1e-4)
    assert scorer.score([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_version_is_a_stable_hash(kind: str, config: Callable[..., ScoreConfig]) -> None:
    version = scores.load(kind).version
    assert version(config(kind)) == version(config(kind))
    assert len(version(config(kind))) == 64


def test_the_version_follows_weights_and_options(
    config: Callable[..., ScoreConfig], tmp_path: Path, width: int
) -> None:
    other = ScoreConfig(
        name="mine",
        kind="classifier",
        path=tiny_models.classifier(tmp_path / "other", seed=1),
        options={"label": "watermark"},
    )
    configs = [
        config("sharpness"),
        config("sharpness", side=64),
        config("classifier"),
        config("classifier", label="logo"),
    ]
    configs += [
        other,
        config("aesthetic"),
        config("aesthetic", head=head(tmp_path / "b.safetensors", (width, 1))),
    ]
    assert len({scores.load(one.kind).version(one) for one in configs}) == len(configs)


@pytest.mark.parametrize("kind", KINDS)
def test_strips_and_single_pixels_harm_nothing(
    kind: str, config: Callable[..., ScoreConfig]
) -> None:
    scorer, image = scores.load(kind).load(config(kind)), photographs()[0]
    odd = [image.resize(size) for size in ((1, 1), (20_000, 1), (1, 20_000), (900, 31))]
    found = scorer.score([*odd, image])
    assert len(found) == 5
    assert [math.isfinite(value) for value in found] == [kind == "sharpness"] * 3 + [True] * 2
    assert found[4] == pytest.approx(scorer.score([image])[0], rel=1e-4)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """The 3x3 stencil written out (OpenCV mirrors at the border) on an image of 512 x 512."""
    image = Image.fromarray(data.astronaut())
    light = np.pad(np.asarray(image.convert("L"), dtype=float), 1, mode="reflect")
    laplacian = (
        light[:-2, 1:-1]
        + light[2:, 1:-1]
        + light[1:-1, :-2]
        + light[1:-1, 2:]
        - 4 * light[1:-1, 1:-1]
    )
    assert score(ScoreConfig(name="s", kind="sharpness"), [image])[0] == pytest.approx(
        laplacian.var(), rel=1e-9
    )


@pytest.mark.parametrize("number", range(4))
def test_blur_lowers_sharpness_and_size_hardly_matters(number: int) -> None:
    config = ScoreConfig(name="s", kind="sharpness", options={"side": 128})
    sharp = photographs()[number]
    blurred = [sharp.filter(ImageFilter.GaussianBlur(radius)) for radius in (4, 12)]
    values = score(config, [sharp, *blurred])
    assert values[0] > 1.5 * values[1] > 3 * values[2]
    half = sharp.resize((sharp.width // 2, sharp.height // 2), Image.Resampling.LANCZOS)
    assert score(config, [half])[0] == pytest.approx(values[0], rel=0.15)
    assert score(config, [Image.new("RGB", (900, 20), "red")]) == [0.0]


def test_the_classifier_is_the_reference_pipeline(
    model: str, config: Callable[..., ScoreConfig]
) -> None:
    from transformers import AutoModelForImageClassification, ImageClassificationPipeline
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    network = AutoModelForImageClassification.from_pretrained(model)
    reference = ImageClassificationPipeline(
        model=network, image_processor=ViTImageProcessorPil.from_pretrained(model)
    )
    answers = [
        {answer["label"]: answer["score"] for answer in reference(image)}
        for image in photographs()
    ]
    for label in ("watermark", "clean"):
        expected = [answer[label] for answer in answers]
        assert score(config("classifier", label=label), photographs()) == pytest.approx(
            expected, abs=1e-5
        )


def test_labels_that_do_not_exclude_each_other_have_their_own_probability(tmp_path: Path) -> None:
    path = tiny_models.classifier(tmp_path, problem_type="multi_label_classification")
    configs = [
        ScoreConfig(name="mine", kind="classifier", path=path, options={"label": label})
        for label in ("clean", "watermark", "logo")
    ]
    sums = np.sum([score(config, photographs()) for config in configs], axis=0)
    assert np.abs(sums - 1).max() > 0.05


def test_an_unknown_label_is_one_message_that_names_the_nearest(
    config: Callable[..., ScoreConfig],
) -> None:
    module = scores.load("classifier")
    with pytest.raises(UserError, match=r"'watermak' does not exist\. Did you mean 'watermark'"):
        module.load(config("classifier", label="watermak"))
    with pytest.raises(UserError, match="choose one of clean, logo, watermark"):
        module.load(config("classifier", label=""))


def test_a_score_that_is_no_number_stays_none(config: Callable[..., ScoreConfig]) -> None:
    scorer: Any = scores.load("classifier").load(config("classifier"))
    scorer.model.classifier.bias.data.fill_(float("nan"))
    assert all(math.isnan(value) for value in scorer.score(photographs()))


def test_the_aesthetic_head_is_laions_network(tmp_path: Path) -> None:
    """A CLIP of width 768, as ViT-L/14's, under the predictor as its authors wrote it:
    linear layers and dropout."""
    from torch import nn
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from raytrain.families._tiny import tokenizer

    torch.manual_seed(0)
    vision = tiny_models.SHAPE | {"image_size": 32, "patch_size": 8}
    text = tiny_models.SHAPE | {"vocab_size": 150}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    ).save_pretrained(tmp_path / "clip")
    tokenizer(tmp_path / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(
        tmp_path / "clip"
    )
    sizes = (768, 1024, 128, 64, 16, 1)
    network = nn.Sequential(
        nn.Linear(768, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    ).eval()
    save_file(
        {f"layers.{name}": value for name, value in network.state_dict().items()},
        tmp_path / "head.safetensors",
    )
    assert [tuple(v.shape) for n, v in network.state_dict().items() if "weight" in n] == list(
        zip(sizes[1:], sizes, strict=False)
    )

    clip = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    processor = CLIPProcessor.from_pretrained(tmp_path / "clip")
    pixels = processor(images=photographs(), return_tensors="pt")
    with torch.no_grad():
        features = clip.get_image_features(**pixels).pooler_output
        expected = network(features / features.norm(dim=-1, keepdim=True))[:, 0].tolist()
    options = {"head": str(tmp_path / "head.safetensors")}
    config = ScoreConfig(name="a", kind="aesthetic", path=str(tmp_path / "clip"), options=options)
    assert score(config, photographs()) == pytest.approx(expected, abs=1e-5)


def test_without_a_head_the_aesthetic_score_is_the_one_of_evaluation(tmp_path: Path) -> None:
    from raytrain import aesthetic
    from raytrain.aesthetic import prepare

    torch.manual_seed(0)
    network = aesthetic.AestheticModel().eval()
    save_file(network.state_dict(), tmp_path / "rating.safetensors")
    with torch.no_grad():
        expected = network(torch.stack([prepare(image) for image in photographs()])).tolist()
    config = ScoreConfig(name="a", kind="aesthetic", path=str(tmp_path / "rating.safetensors"))
    assert score(config, photographs()) == pytest.approx(expected, rel=1e-5)


def test_weights_of_another_kind_are_one_message(tmp_path: Path, width: int) -> None:
    def load(file: str, path: str = CLIP) -> None:
        scores.load("aesthetic").load(
            ScoreConfig(name="mine", kind="aesthetic", path=path, options={"head": file})
        )

    with pytest.raises(
        UserError, match=rf"takes embeddings of {width + 1} numbers, and CLIP .* gives {width}"
    ):
        load(head(tmp_path / "wide.safetensors", (width + 1, 1)))
    with pytest.raises(UserError, match="no chain of linear layers"):
        load(head(tmp_path / "two.safetensors", (width, 2)))
    with pytest.raises(UserError, match=r"must be a \.safetensors file"):
        load(str(tmp_path / "absent.safetensors"))
    with pytest.raises(UserError, match="path of the score 'mine' must be a folder"):
        load(head(tmp_path / "one.safetensors", (width, 1)), str(tmp_path))
    with pytest.raises(UserError, match=r"path of the score 'mine' must be a \.safetensors file"):
        load("", str(tmp_path))
