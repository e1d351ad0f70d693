"""Every mask plug-in on real photographs: the contract, then what each of them does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage import data

from raytrain import plugins
from raytrain.config.data import MaskConfig
from raytrain.data import masks
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError
from tests.data import tiny_models

KINDS = plugins.names("data.masks")


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_models.clipseg(tmp_path_factory.mktemp("clipseg"))


@pytest.fixture
def config(clipseg: str) -> Callable[..., MaskConfig]:
    """Return a working config of a kind; keyword arguments are its options."""

    def make(kind: str, **options: Any) -> MaskConfig:
        model = {"path": clipseg, "prompt": "a face"} if kind == "clipseg" else {}
        return MaskConfig(kind=kind, options=options, **model)

    return make


def astronaut(width: int = 512, height: int = 512) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize((width, height))


def make(config: MaskConfig, image: Image.Image, **given: Image.Image | None) -> Image.Image:
    return (
        masks.load(config.kind).load(config).mask(image, **{"file": None, "alpha": None, **given})
    )


def test_the_known_kinds_are_there() -> None:
    assert {"folder", "alpha", "clipseg", "face"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_gray_of_the_images_size_and_the_same_every_time(
    kind: str, config: Callable[..., MaskConfig]
) -> None:
    image = astronaut(301, 300)
    file = Image.fromarray(data.camera()).resize((301, 300))
    one, other = (make(config(kind), image, file=file, alpha=file) for _ in range(2))
    assert (one.mode, one.size) == ("L", (301, 300))
    assert one.tobytes() == other.tobytes()
    assert len(set(one.tobytes())) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (5_000, 1), (2, 5_000), (900, 31)])
def test_strips_and_single_pixels_have_a_mask_or_a_reason(
    kind: str, size: tuple[int, int], config: Callable[..., MaskConfig]
) -> None:
    file = Image.new("L", size, 7)
    options = {"none_found": "white"} if kind == "face" else {}
    if kind == "clipseg" and size != (900, 31):
        with pytest.raises(BadImage, match="too narrow"):
            make(config(kind), astronaut(*size))
    else:
        assert make(config(kind, **options), astronaut(*size), file=file, alpha=file).size == size


@pytest.mark.parametrize("kind", KINDS)
def test_the_version_is_a_stable_hash(kind: str, config: Callable[..., MaskConfig]) -> None:
    module = masks.load(kind)
    assert isinstance(module.READS_FILE, bool)
    assert module.version(config(kind)) == module.version(config(kind))
    assert len(module.version(config(kind))) == 64


def test_the_version_follows_weights_prompt_and_options(clipseg: str, tmp_path: Path) -> None:
    other = tiny_models.clipseg(tmp_path, seed=1)
    base = MaskConfig(kind="clipseg", path=clipseg, prompt="a face")
    changes = (
        {"path": other},
        {"prompt": "a hand"},
        {"options": {"bias": 0.1}},
        {"options": {"threshold": 0.5}},
    )
    versions = [
        masks.load("clipseg").version(base.model_copy(update=change)) for change in ({}, *changes)
    ]
    face = masks.load("face")
    versions += [
        face.version(MaskConfig(kind="face", options=options)) for options in ({}, {"grow": 2.0})
    ]
    assert len(set(versions)) == 7


def test_clipseg_is_the_reference_call_on_real_images(clipseg: str) -> None:
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    config = MaskConfig(
        kind="clipseg", path=clipseg, prompt="a cup of coffee", options={"blur": 0.0}
    )
    image = Image.fromarray(data.coffee())
    processor = CLIPSegProcessor.from_pretrained(clipseg)
    inputs = processor(
        text=["a cup of coffee", ""], images=[image] * 2, padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        logits = CLIPSegForImageSegmentation.from_pretrained(clipseg)(**inputs).logits
    share = (torch.softmax(logits / 0.5, dim=0)[0] + 0.05).clamp(0, 1)
    small = Image.fromarray((255 * share / share.max()).round().to(torch.uint8).numpy())
    expected = np.asarray(small.resize(image.size, Image.Resampling.BILINEAR))
    mask = np.asarray(make(config, image))
    assert np.ptp(expected) > 50
    assert np.array_equal(mask, expected)

    hard = np.asarray(
        make(config.model_copy(update={"options": {"blur": 0.0, "threshold": 0.8}}), image)
    )
    assert np.array_equal(hard, np.where(expected >= 0.8 * 255, 255, 0))
    soft = np.asarray(
        make(config.model_copy(update={"options": {"blur": 0.02, "threshold": 0.8}}), image)
    )
    assert set(np.unique(hard)) == {0, 255}
    assert len(np.unique(soft)) > 2


def test_clipseg_needs_a_prompt_and_a_model(clipseg: str, tmp_path: Path) -> None:
    clip = masks.load("clipseg")
    with pytest.raises(UserError, match=r"data\.masks\.prompt is empty"):
        clip.load(MaskConfig(kind="clipseg", path=clipseg))
    with pytest.raises(UserError, match=r"data\.masks\.path is empty"):
        clip.load(MaskConfig(kind="clipseg", prompt="face"))
    with pytest.raises(UserError, match=r"data\.masks\.path = .* holds no model"):
        clip.version(MaskConfig(kind="clipseg", prompt="face", path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "clipseg"}')
    with pytest.raises(UserError, match=r"data\.masks\.path = .* cannot be loaded as CLIPSeg"):
        clip.load(MaskConfig(kind="clipseg", prompt="face", path=str(tmp_path)))


def test_alpha_is_the_mask_and_a_image_without_counts_everywhere() -> None:
    alpha = Image.fromarray(data.camera()).resize((40, 30))
    config = MaskConfig(kind="alpha")
    assert make(config, astronaut(40, 30), alpha=alpha).tobytes() == alpha.tobytes()
    assert set(make(config, astronaut(40, 30)).tobytes()) == {255}


def test_a_mask_file_of_another_size_but_the_same_view_is_resized() -> None:
    file = Image.fromarray(data.camera())
    config = MaskConfig(kind="folder")
    for size in ((512, 512), (300, 300), (1023, 1024), (999, 1001)):
        mask = make(config, Image.new("RGB", size), file=file)
        assert mask.size == size
        assert np.asarray(mask.resize((64, 64))).mean() == pytest.approx(
            np.asarray(file).mean(), abs=2
        )
    # what a third of 1000x701 may come out as, by any rounding
    for width, height in ((333, 233), (334, 234), (333, 234)):
        assert make(
            config, Image.new("RGB", (1000, 701)), file=file.resize((width, height))
        ).size == (1000, 701)


@pytest.mark.parametrize("size", [(512, 400), (512, 508), (400, 512)])
def test_a_mask_file_of_another_view_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match=f"its mask is 512x512 and the image {size[0]}x{size[1]}"):
        make(
            MaskConfig(kind="folder"), Image.new("RGB", size), file=Image.fromarray(data.camera())
        )


def test_a_missing_mask_file_leaves_the_image_out_or_counts_everywhere() -> None:
    with pytest.raises(BadImage, match="no mask file"):
        make(MaskConfig(kind="folder"), astronaut(40, 30))
    assert set(
        make(MaskConfig(kind="folder", options={"missing": "white"}), astronaut(40, 30)).tobytes()
    ) == {255}


def test_mask_files_of_every_mode_mean_what_people_drew(tmp_path: Path) -> None:
    """A white left half, drawn in every way an editor saves it, read back from real files."""
    half = Image.new("L", (8, 4))
    half.paste(255, (0, 0, 4, 4))
    gray16 = Image.fromarray(np.asarray(half, dtype=np.uint16) * 257)
    layer = {
        color: Image.merge("RGBA", [*Image.new("RGB", half.size, color).split(), half])
        for color in ("black", "white", "red")
    }
    drawn = {
        "L": half,
        "1": half.convert("1"),
        "RGB": half.convert("RGB"),
        "P": half.convert("P"),
        "I;16": gray16,
    }
    drawn |= {"opaque": half.convert("RGBA"), "LA": Image.merge("LA", [half, half]), **layer}
    for name, image in drawn.items():
        image.save(tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as file:
            mask = make(MaskConfig(kind="folder"), Image.new("RGB", (8, 4)), file=file)
        assert mask.tobytes() == half.tobytes(), name
    red = make(
        MaskConfig(kind="folder"), Image.new("RGB", (8, 4)), file=Image.new("RGB", (8, 4), "red")
    )
    assert set(red.tobytes()) == {76}  # 0.299 * 255
    with pytest.raises(BadImage, match="floating-point"):
        make(MaskConfig(kind="folder"), Image.new("RGB", (8, 4)), file=Image.new("F", (8, 4)))


def hopper() -> Image.Image:
    from matplotlib.cbook import get_sample_data

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return image.convert("RGB")


FACES = {"astronaut": (astronaut, (224, 114)), "hopper": (hopper, (257, 205))}


@pytest.mark.parametrize("who", FACES)
def test_a_real_face_is_white_and_the_rest_black(who: str) -> None:
    """Public-domain photographs: Eileen Collins (NASA) and Grace Hopper (US Navy),
    and where their noses are."""
    image, nose = FACES[who][0](), FACES[who][1]
    mask = make(MaskConfig(kind="face"), image)
    assert mask.getpixel(nose) == 255
    assert {
        mask.getpixel((x, y)) for x in (0, image.width - 1) for y in (0, image.height - 1)
    } == {0}
    assert 0.02 < np.asarray(mask).mean() / 255 < 0.35
    floor = make(MaskConfig(kind="face", options={"background": 0.2}), image)
    assert floor.getpixel((0, 0)) == 51


def test_a_image_without_a_face_is_what_the_option_says() -> None:
    image = Image.fromarray(data.coffee())
    with pytest.raises(BadImage, match="no face was found"):
        make(MaskConfig(kind="face"), image)
    for word, value in (("white", 255), ("black", 0)):
        assert set(
            make(MaskConfig(kind="face", options={"none_found": word}), image).tobytes()
        ) == {value}
    with pytest.raises(BadImage, match="no face was found"):
        make(MaskConfig(kind="face"), Image.new("RGB", (500, 9)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("no.xml", None),
        ("no.onnx", None),
        ("a.xml", "<a/>"),
        ("b.onnx", "b"),
        ("c.xml", "c"),
        ("d.pt", "d"),
    ],
)
def test_a_detector_that_is_none_is_one_message(
    name: str, content: str | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"data\.masks\.options\.detector"):
        masks.load("face").load(
            MaskConfig(kind="face", options={"detector": str(tmp_path / name)})
        )


def yunet(file: Path) -> None:
    """Write a detector with YuNet's inputs and outputs that takes what is bright over 32 pixels
    for a face of 64."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, outputs, constants = [], [], []
    for stride in (8, 16, 32):
        cells = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        for name, width in cells.items():
            weight = np.zeros((width, 3, stride, stride), dtype=np.float32)
            bias = np.zeros(width, dtype=np.float32)
            if name == "bbox":
                bias[:] = (
                    0.5,
                    0.5,
                    np.log(2),
                    np.log(2),
                )  # center of the cell, two strides wide and high
            elif stride == 32:
                weight[:] = 1 / (255 * weight[0].size)
            constants += [
                numpy_helper.from_array(value, f"{name}_{stride}_{part}")
                for part, value in (("w", weight), ("b", bias))
            ]
            nodes += [
                helper.make_node(
                    "Conv",
                    ["input", f"{name}_{stride}_w", f"{name}_{stride}_b"],
                    [f"{name}_{stride}_c"],
                    kernel_shape=[stride, stride],
                    strides=[stride, stride],
                ),
                helper.make_node(
                    "Transpose", [f"{name}_{stride}_c"], [f"{name}_{stride}_t"], perm=[0, 2, 3, 1]
                ),
                helper.make_node(
                    "Reshape", [f"{name}_{stride}_t", f"shape_{width}"], [f"{name}_{stride}"]
                ),
            ]
            outputs.append(
                helper.make_tensor_value_info(
                    f"{name}_{stride}", TensorProto.FLOAT, [1, "n", width]
                )
            )
    constants += [
        numpy_helper.from_array(np.array([1, -1, width], dtype=np.int64), f"shape_{width}")
        for width in (1, 4, 10)
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(
        nodes, "yunet", [image], sorted(outputs, key=lambda output: output.name), constants
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        str(file),
    )


def test_yunet_through_opencv_finds_places_in_the_image(tmp_path: Path) -> None:
    yunet(tmp_path / "yunet.onnx")
    image = Image.new("RGB", (512, 256))
    ImageDraw.Draw(image).rectangle((128, 64, 191, 127), fill="white")
    options = {"detector": str(tmp_path / "yunet.onnx"), "side": 256, "grow": 1.0, "blur": 0.0}
    mask = make(MaskConfig(kind="face", options=options), image)
    # the square is a whole cell of stride 32 at half size: a box of 64 around its middle, 128 wide
    # in the image
    assert mask.getbbox() == pytest.approx((96, 32, 224, 160), abs=2)
    assert mask.getpixel((160, 96)) == 255
    with pytest.raises(BadImage, match="no face"):
        make(MaskConfig(kind="face", options=options), Image.new("RGB", (512, 256)))
    version = masks.load("face").version
    assert version(MaskConfig(kind="face", options=options)) != version(
        MaskConfig(kind="face", options={**options, "detector": ""})
    )


def test_a_cascade_of_a_file_finds_what_the_one_built_in_does(tmp_path: Path) -> None:
    copy = tmp_path / "drawn_faces.xml"
    copy.write_bytes(Path(data.lbp_frontal_face_cascade_filename()).read_bytes())
    own = MaskConfig(kind="face", options={"detector": str(copy), "background": 0.05, "blur": 0.0})
    mask = np.asarray(make(own, astronaut()))
    assert set(np.unique(mask)) == {13, 255}, "0.05 of 255, and the face"
    plain = make(MaskConfig(kind="face", options={"blur": 0.0}), astronaut())
    assert ((np.asarray(plain) == 255) == (mask == 255)).all()
