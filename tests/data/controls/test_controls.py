"""Every control plug-in on real photographs: the contract, then what each of them does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from raytrain import plugins
from raytrain.config.data import ControlConfig
from raytrain.data import controls
from raytrain.data.controls.pose import COLORS, Joint, draw
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError
from tests.data import tiny_models

KINDS = plugins.names("data.controls")
COCO = (6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's joints after nose and neck (right arm, left arm, right leg, left leg, eyes, ears)
in COCO's numbers."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "depth": tiny_models.depth(tmp_path_factory.mktemp("depth")),
        "pose": tiny_models.pose(tmp_path_factory.mktemp("pose")),
    }


@pytest.fixture
def config(models: dict[str, str]) -> Callable[..., ControlConfig]:
    """Return a working config of a kind; keyword arguments are its options."""

    def make(kind: str, **options: Any) -> ControlConfig:
        return ControlConfig(kind=kind, path=models.get(kind, ""), options=options)

    return make


def coffee() -> Image.Image:
    return Image.fromarray(data.coffee())


def make(
    config: ControlConfig, image: Image.Image, file: Image.Image | None = None
) -> Image.Image:
    return controls.load(config.kind).load(config).make(image, file=file)


def test_the_known_kinds_are_there() -> None:
    assert {"folder", "canny", "depth", "pose"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_image_is_rgb_of_the_images_size_and_the_same_every_time(
    kind: str, config: Callable[..., ControlConfig]
) -> None:
    options = {"certainty": 0.0} if kind == "pose" else {}
    for size in ((301, 200), (64, 160)):
        image = coffee().resize(size)
        one, other = (make(config(kind, **options), image, image.rotate(180)) for _ in range(2))
        assert (one.mode, one.size) == ("RGB", size)
        assert one.tobytes() == other.tobytes()
        assert len(set(one.tobytes())) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (5_000, 1), (2, 5_000), (900, 31)])
def test_strips_and_single_pixels_have_a_control_image_or_a_reason(
    kind: str, size: tuple[int, int], config: Callable[..., ControlConfig]
) -> None:
    image = coffee().resize(size)
    if kind in ("depth", "pose") and size != (900, 31):
        with pytest.raises(BadImage, match="too narrow"):
            make(config(kind), image, image)
    else:
        assert make(config(kind), image, image).size == size


@pytest.mark.parametrize("kind", KINDS)
def test_the_version_is_a_stable_hash(kind: str, config: Callable[..., ControlConfig]) -> None:
    module = controls.load(kind)
    assert isinstance(module.READS_FILE, bool)
    assert module.version(config(kind)) == module.version(config(kind))
    assert len(module.version(config(kind))) == 64


def test_the_version_follows_weights_and_options(
    config: Callable[..., ControlConfig], tmp_path: Path
) -> None:
    other = ControlConfig(kind="depth", path=tiny_models.depth(tmp_path, seed=1))
    configs = [
        config("canny"),
        config("canny", low=50.0),
        config("depth"),
        config("depth", metric=True),
        other,
    ]
    configs += [config("pose"), config("pose", certainty=0.5), config("folder")]
    assert len({controls.load(one.kind).version(one) for one in configs}) == len(configs)


def test_canny_is_the_libraries_call() -> None:
    import cv2

    edges = np.asarray(make(ControlConfig(kind="canny"), coffee()))
    assert np.array_equal(
        edges, np.repeat(cv2.Canny(data.coffee(), 100, 200)[..., None], 3, axis=2)
    )
    assert set(np.unique(edges)) == {0, 255}
    more = np.asarray(
        make(ControlConfig(kind="canny", options={"low": 20.0, "high": 60.0}), coffee())
    )
    assert more.mean() > edges.mean() > 0


def test_depth_is_the_reference_pipeline(models: dict[str, str]) -> None:
    from transformers import AutoModelForDepthEstimation, DepthEstimationPipeline
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    path = models["depth"]
    model, processor = (
        AutoModelForDepthEstimation.from_pretrained(path),
        DPTImageProcessorPil.from_pretrained(path),
    )
    expected = DepthEstimationPipeline(model=model, image_processor=processor)(coffee())["depth"]
    depth = make(ControlConfig(kind="depth", path=path), coffee())
    assert (
        np.abs(np.asarray(depth, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int)).max()
        <= 1
    )
    assert np.asarray(depth).min() == 0
    assert np.asarray(depth).max() == 255


def test_near_is_white_for_models_of_distances_too(tmp_path: Path) -> None:
    path = tiny_models.depth(tmp_path, kind="metric")
    itself, inverse, distance = (
        np.asarray(
            make(ControlConfig(kind="depth", path=path, options=options), coffee()), dtype=int
        )
        for options in ({}, {"metric": True}, {"metric": False})
    )
    assert np.array_equal(itself, inverse)
    assert np.abs(255 - inverse - distance).max() <= 1
    assert np.ptp(distance) == 255


def test_depths_that_are_no_numbers_reject_the_image_and_equal_ones_are_black(
    tmp_path: Path,
) -> None:
    path = tiny_models.depth(tmp_path)
    maker: Any = controls.load("depth").load(ControlConfig(kind="depth", path=path))
    for weight in maker.model.head.parameters():
        weight.data.zero_()
    assert not np.asarray(maker.make(coffee(), file=None)).any()
    maker.model.head.conv1.bias.data.fill_(float("nan"))
    with pytest.raises(BadImage, match="no number"):
        maker.make(coffee(), file=None)


@pytest.mark.parametrize("kind", ["depth", "pose"])
def test_a_model_that_is_none_is_one_message(kind: str, models: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"data\.controls\.path is empty"):
        controls.load(kind).load(ControlConfig(kind=kind))
    with pytest.raises(UserError, match=r"data\.controls\.path is empty"):
        controls.load(kind).version(ControlConfig(kind=kind))
    other = models["pose" if kind == "depth" else "depth"]
    with pytest.raises(UserError, match=r"data\.controls\.path = .* cannot be loaded"):
        controls.load(kind).load(ControlConfig(kind=kind, path=other))


def test_a_control_file_is_taken_as_it_is_and_must_show_the_same_view() -> None:
    config, file = ControlConfig(kind="folder"), Image.fromarray(data.astronaut())
    assert make(config, Image.new("RGB", (512, 512)), file).tobytes() == file.tobytes()
    assert make(config, Image.new("RGB", (700, 700)), file.convert("P")).size == (700, 700)
    clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    assert not any(make(config, Image.new("RGB", (8, 8)), clear).tobytes())
    with pytest.raises(BadImage, match="its control is 512x512 and the image 512x300"):
        make(config, Image.new("RGB", (512, 300)), file)
    with pytest.raises(BadImage, match="no control file"):
        make(config, file)


def test_published_dpt_files_lack_what_no_computation_reads_and_may_lack_nothing_else(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    path, file = tiny_models.depth(tmp_path), tmp_path / "model.safetensors"
    config = ControlConfig(kind="depth", path=path)
    before, weights = make(config, coffee()), load_file(file)
    unread = [name for name in weights if "fusion_stage.layers.0.residual_layer1." in name]
    assert len(unread) == 4
    save_file(
        {name: weights[name] for name in weights if name not in unread}, file, {"format": "pt"}
    )
    assert make(config, coffee()).tobytes() == before.tobytes()
    save_file(
        {name: weights[name] for name in weights if name != "head.conv1.bias"},
        file,
        {"format": "pt"},
    )
    with pytest.raises(UserError, match=r"lacks 1 of its weights, for instance head\.conv1\.bias"):
        make(config, coffee())


@pytest.mark.parametrize("experts", [1, 6])
def test_the_pose_is_the_reference_models_joints(experts: int, tmp_path: Path) -> None:
    from transformers import VitPoseForPoseEstimation
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    path, image = (
        tiny_models.pose(tmp_path, experts=experts),
        Image.fromarray(data.astronaut()).resize((300, 400)),
    )
    processor, boxes = VitPoseImageProcessorPil.from_pretrained(path), [[[0.0, 0.0, 300.0, 400.0]]]
    inputs = processor(image, boxes=boxes, return_tensors="pt")
    which = {"dataset_index": torch.tensor([0])} if experts > 1 else {}
    with torch.no_grad():
        output = VitPoseForPoseEstimation.from_pretrained(path).eval()(**inputs, **which)
    found = processor.post_process_pose_estimation(output, boxes=boxes)[0][0]
    coco = [Joint(*place) for place in found["keypoints"].tolist()]
    neck = Joint((coco[5].x + coco[6].x) / 2, (coco[5].y + coco[6].y) / 2)
    joints = [coco[0], neck, *(coco[n] for n in COCO)]
    for certainty in (0.0, sorted(found["scores"].tolist())[9], 1.0):
        sure = found["scores"] >= certainty
        which_joints = [bool(sure[0]), bool(sure[5] and sure[6]), *(bool(sure[n]) for n in COCO)]
        expected = draw(
            [joint if known else None for joint, known in zip(joints, which_joints, strict=True)],
            (300, 400),
        )
        drawn = make(
            ControlConfig(kind="pose", path=path, options={"certainty": certainty}), image
        )
        assert drawn.tobytes() == expected.tobytes()
        assert np.asarray(drawn).any() == (certainty < 1)


def test_a_body_is_drawn_in_openposes_colors() -> None:
    joints: list[Joint | None] = [None] * 18
    joints[1], joints[2], joints[0] = Joint(256, 100), Joint(156, 100), Joint(256, 40)
    body = draw(joints, (512, 512))
    assert COLORS[:3] == ((255, 0, 0), (255, 85, 0), (255, 170, 0))
    assert COLORS[-1] == (255, 0, 85)
    assert [body.getpixel(place) for place in ((256, 40), (256, 100), (156, 100))] == [
        COLORS[0],
        COLORS[1],
        COLORS[2],
    ]
    assert body.getpixel((206, 100)) == (
        153,
        0,
        0,
    )  # neck to right shoulder: the first limb, at 60 %
    assert body.getpixel((256, 70)) == (0, 0, 153)  # neck to nose: the thirteenth
    assert body.getpixel((300, 100)) == (0, 0, 0)
    assert not np.asarray(draw([None] * 18, (9, 9))).any()
