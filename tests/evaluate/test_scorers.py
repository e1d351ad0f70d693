"""Every scorer against values computed by hand; the contract holds for every file of the
folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from raytrain import aesthetic as predictor
from raytrain import plugins
from raytrain.clip import EPSILON, ClipModel, unit
from raytrain.errors import UserError
from raytrain.evaluate import scorers
from raytrain.evaluate.run import measure, scores
from raytrain.evaluate.subject import Judges, Subject
from tests.evaluate.conftest import Hand, settings

HALF = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]


def equal_cosines(count: int, cosine: float) -> list[list[float]]:
    """Rows whose pairwise cosines are all the same: the Cholesky factor of such a Gram matrix."""
    gram = torch.full((count, count), cosine, dtype=torch.float64).fill_diagonal_(1)
    rows: list[list[float]] = torch.linalg.cholesky(gram).float().tolist()
    return rows


@pytest.mark.parametrize("name", plugins.names("evaluate.scorers"))
def test_every_scorer_keeps_the_contract(name: str) -> None:
    scorer = scorers.load(name)
    assert scorer.BETTER in ("higher", "lower")
    assert scorer.LABEL
    assert scorer.score.__doc__


@pytest.mark.parametrize("name", plugins.names("evaluate.scorers"))
def test_every_scorer_answers_an_empty_subject_with_nothing(name: str, by_hand: Hand) -> None:
    assert scorers.load(name).score(by_hand([])) == []


def test_text_alignment_is_the_cosine_of_each_prompt_and_its_image(by_hand: Hand) -> None:
    subject = by_hand([[3, 4], [0, 2]], [("one", [4, 3]), ("two", [1, 0])])
    assert scorers.load("clip_text").score(subject) == pytest.approx([24 / 25, 0.0])


def test_an_empty_prompt_has_no_text_alignment_unless_legacy_is_asked_for(by_hand: Hand) -> None:
    images, prompts = [[1, 0], [0, 1]], [("", [1, 0]), ("two", [0, 1])]
    assert scorers.load("clip_text").score(by_hand(images, prompts)) == pytest.approx([1.0])
    assert scorers.load("clip_text").score(by_hand(images, prompts, legacy=True)) == pytest.approx(
        [1.0, 1.0]
    )
    assert scorers.load("clip_text").score(by_hand(images[:1], prompts[:1])) == []


def test_training_alignment_is_the_mean_over_all_pairs(by_hand: Hand) -> None:
    subject = by_hand([[1, 0], [0, 1]], references=[[1, 0], [1, 1], [0, -1]])
    root = math.sqrt(0.5)
    values = scorers.load("clip_image").score(subject)
    assert values == pytest.approx([(1 + root + 0) / 3, (0 + root - 1) / 3])
    assert sum(values) / 2 == pytest.approx((1 + root + 0 + 0 + root - 1) / 6)


def test_training_alignment_needs_training_images(by_hand: Hand) -> None:
    assert scorers.load("clip_image").score(by_hand([[1, 0]])) == []


@pytest.mark.parametrize(("legacy", "expected"), [(False, 0.5), (True, 0.1875)])
def test_diversity_divides_by_the_number_of_pairs_unless_legacy(
    by_hand: Hand, legacy: bool, expected: float
) -> None:
    subject = by_hand(equal_cosines(4, 0.5), legacy=legacy)
    assert scorers.load("diversity").score(subject) == pytest.approx([expected] * 4)


def test_diversity_does_not_grow_with_the_number_of_images(by_hand: Hand) -> None:
    for count in (2, 3, 8):
        values = scorers.load("diversity").score(by_hand(equal_cosines(count, 0.3)))
        assert values == pytest.approx([0.7] * (1 if count == 2 else count), abs=1e-6)


def test_diversity_values_have_the_mean_over_pairs_and_the_spread_of_the_jackknife(
    by_hand: Hand,
) -> None:
    torch.manual_seed(1)
    rows = torch.rand(7, 3)
    values = scorers.load("diversity").score(by_hand(rows.tolist()))
    cosines = unit(rows) @ unit(rows).T
    pairs = [1 - float(cosines[i, j]) for i in range(7) for j in range(i)]
    mean = sum(pairs) / len(pairs)
    assert sum(values) / 7 == pytest.approx(mean)
    without = [
        sum(1 - float(cosines[i, j]) for i in range(7) for j in range(i) if k not in (i, j)) / 15
        for k in range(7)
    ]
    assert values == pytest.approx([7 * mean - 6 * left for left in without], abs=1e-5)


def test_one_image_has_no_diversity(by_hand: Hand) -> None:
    assert scorers.load("diversity").score(by_hand([[1, 0]])) == []


def test_held_out_losses_come_from_the_subject(by_hand: Hand) -> None:
    subject = by_hand([[1, 0]])
    assert scorers.load("held_out_loss").score(subject) == []
    subject.held_out = lambda: [0.25, 0.75]
    assert scorers.load("held_out_loss").score(subject) == [0.25, 0.75]


def test_the_aesthetic_predictor_is_the_published_network() -> None:
    with torch.device("meta"):
        model = predictor.AestheticModel()
    assert sum(p.numel() for p in model.parameters()) == 24_729_665
    names = set(model.state_dict())
    assert {
        "model.conv1.weight",
        "model.bn1.running_var",
        "model.layer1.0.downsample.1.bias",
    } <= names
    assert {"model.layer3.5.conv3.weight", "model.fc.0.weight", "model.fc.12.bias"} <= names
    assert model.model.fc[3].weight.shape == (256, 512)


def test_aesthetic_weights_load_whatever_the_numbers_of_the_head(
    tmp_path: Path, by_hand: Hand
) -> None:
    model = predictor.AestheticModel().eval()
    weights = {
        k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")
    }
    for old, new in ((3, 2), (6, 4), (9, 6), (12, 8)):  # a head without numbered dropout
        for part in ("weight", "bias"):
            weights[f"model.fc.{new}.{part}"] = weights.pop(f"model.fc.{old}.{part}")
    file = tmp_path / "aesthetic.safetensors"
    save_file(weights, file)
    subject = by_hand([[1, 0]], scorers=["aesthetic"], aesthetic=str(file))
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    subject.images = [image]
    with torch.no_grad():
        expected = float(model(predictor.prepare(image)[None]))
    assert scorers.load("aesthetic").score(subject) == pytest.approx([expected], rel=1e-5)


def test_wrong_aesthetic_files_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights_only=True"):
        predictor.load("weights.pth")
    with pytest.raises(UserError, match="does not exist"):
        predictor.load(str(tmp_path / "none.safetensors"))
    save_file({"model.conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not the ResNet-50"):
        predictor.load(str(tmp_path / "other.safetensors"))


def test_images_are_cut_square_resized_and_normalized_as_imagenet() -> None:
    image = Image.new("RGB", (300, 100), "white")
    image.paste("black", (0, 0, 100, 100))
    pixels = predictor.prepare(image)
    assert pixels.shape == (3, 224, 224)
    white = [(1 - mean) / std for mean, std in zip(predictor.MEAN, predictor.STD, strict=True)]
    assert pixels[:, 10, 10].tolist() == pytest.approx(white, abs=1e-5)
    assert pixels.unique().numel() == 3


def test_clip_embeds_images_of_any_size_and_texts_of_any_length(clip_folder: str) -> None:
    model = ClipModel(clip_folder, batch=2)
    images = [
        Image.new("L", (30, 90), 40),
        Image.new("RGB", (64, 64), "red"),
        Image.new("RGBA", (128, 32)),
    ]
    embedded = model.embed_images(images)
    assert embedded.shape == (3, 64)
    assert embedded.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert torch.allclose(model.embed_images(images[1:2]), embedded[1:2], atol=1e-5)
    texts = model.embed_texts(["a red circle", "", "word " * 400])
    assert texts.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert torch.allclose(model.embed_texts(["a red circle"]), texts[:1], atol=1e-5)
    assert model.embed_images([]).shape == (0, 64)


def test_clip_cosines_equal_the_models_own(clip_folder: str) -> None:
    from transformers import CLIPModel

    from raytrain.toy import parts

    reference = CLIPModel.from_pretrained(clip_folder).eval()
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    tokens = parts.tokenizer()(["a blue square"], return_tensors="pt")
    with torch.no_grad():
        seen = reference(
            **tokens,
            pixel_values=parts.image_processor()(images=image, return_tensors="pt")[
                "pixel_values"
            ],
        )
    ours = ClipModel(clip_folder)
    cosine = ours.embed_texts(["a blue square"]) @ ours.embed_images([image]).T
    expected = torch.nn.functional.cosine_similarity(
        seen.text_embeds, seen.image_embeds, eps=EPSILON
    )
    assert float(cosine) == pytest.approx(float(expected), abs=1e-5)


def test_a_missing_clip_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate\.clip must be a folder"):
        ClipModel(str(tmp_path))


def test_scores_carry_name_direction_count_and_interval(by_hand: Hand) -> None:
    subject = by_hand(
        [[1, 0], [1, 1], [0, 1]], [("one", [1, 0]), ("two", [1, 1]), ("three", [1, 0])]
    )
    found = scores(subject)
    assert set(found) == {"clip_text", "diversity"}, (
        "scorers without references or losses are left out"
    )
    text = found["clip_text"]
    assert (text.better, text.label, text.count) == ("higher", "Text alignment", 3)
    assert text.low <= text.mean <= text.high
    assert text.mean == pytest.approx(2 / 3)


def test_embeddings_are_computed_once(by_hand: Hand) -> None:
    subject = by_hand([[1, 0], [0, 1]], [("one", [1, 0]), ("two", [0, 1])])
    scores(subject)
    assert subject.judges.clip.calls == 1  # type: ignore[attr-defined]


def test_a_value_that_is_no_number_is_an_error_that_names_the_cause(by_hand: Hand) -> None:
    subject = by_hand([[1, 0], [0, 1]], [("one", [1, 0]), ("two", [0, 1])])
    subject.held_out = lambda: [0.5, math.nan]
    with pytest.raises(UserError, match=r"'held_out_loss' gave no number for 1 of 2 samples"):
        measure(subject)


def test_a_subject_needs_one_prompt_a_image(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with pytest.raises(ValueError, match="one prompt an image"):
        Subject(config, [Image.new("RGB", (8, 8))], [], Judges(config))


def test_the_aesthetic_body_is_transformers_resnet_50() -> None:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    ours = predictor.AestheticModel().eval()
    body: Any = ours.model
    for module in body.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    theirs = ResNetModel(ResNetConfig()).eval()  # its defaults are ResNet-50's
    names = {
        "conv": "convolution", "bn": "normalization",
        "downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization",
    }  # fmt: skip

    def named(name: str) -> str:
        if name.startswith(("conv1.", "bn1.")):
            kind, _, rest = name.partition(".")
            return f"embedder.embedder.{names[kind[:-1]]}.{rest}"
        stage, block, part, rest = name.removeprefix("layer").split(".", 3)
        where = f"encoder.stages.{int(stage) - 1}.layers.{block}"
        if part == "downsample":
            number, rest = rest.split(".", 1)
            return f"{where}.{names[f'downsample.{number}']}.{rest}"
        return f"{where}.layer.{int(part[-1]) - 1}.{names[part[:-1]]}.{rest}"

    state = {named(k): v for k, v in body.state_dict().items() if not k.startswith("fc")}
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = theirs(images).pooler_output.flatten(1)
        torch.testing.assert_close(ours(images), body.fc(pooled).squeeze(-1) / 10)
    assert body.fc(pooled).std() > 1e-5, "two images, two ratings"
