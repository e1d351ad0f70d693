"""The tagger on a tiny ONNX model: thresholds, order and spelling of tags,
and the input the real ones were trained with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from raytrain.config.data import CaptionConfig
from raytrain.data.captioners import _tiny_tagger, wd14
from raytrain.data.captioners.wd14 import Options, Tag, choose, spoken
from raytrain.errors import UserError


def config(
    path: str | Path, options: dict[str, Any] | None = None, **settings: Any
) -> CaptionConfig:
    return CaptionConfig(captioner="wd14", path=str(path), options=options or {}, **settings)


TAGS = [
    Tag("general", 9),
    Tag("sensitive", 9),
    Tag("explicit", 9),
    Tag("1girl", 0),
    Tag("long hair", 0),
]
TAGS += [Tag("miku", 4), Tag("vocaloid", 3), Tag("someone", 1), Tag("highres", 5)]


@pytest.mark.parametrize(
    ("likely", "options", "expected"),
    [
        (
            [0.9, 0.1, 0.2, 0.35, 0.9, 0.75, 0.4, 0.5, 0.6],
            {},
            "miku, vocaloid, someone, long hair, 1girl, highres",
        ),
        ([0.9, 0.1, 0.2, 0.34, 0.9, 0.74, 0.3, 0.3, 0.3], {}, "long hair"),
        (
            [0.1, 0.9, 0.2, 0.4, 0.9, 0.1, 0.1, 0.1, 0.1],
            {"rating": True},
            "questionable, long hair, 1girl",
        ),
        ([0.1, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], {"rating": True}, "nsfw"),
        ([0.9, 0.1, 0.2, 0.4, 0.4, 0.1, 0.1, 0.1, 0.1], {"thresholds": {"general": 0.5}}, ""),
        (
            [0, 0, 0, 0.4, 0.4, 0.1, 0, 0.9, 0.9],
            {"thresholds": {"character": 0.1, "meta": 1.0}},
            "miku, someone, 1girl, long hair",
        ),
    ],
)
def test_tags_reach_their_category_s_threshold(
    likely: list[float], options: dict[str, Any], expected: str
) -> None:
    assert ", ".join(choose(TAGS, likely, Options(**options))) == expected


def test_underscores_are_spaces_but_for_faces() -> None:
    assert [
        spoken(name) for name in ("long_hair", "^_^", "||_||", "hatsune_miku_(cosplay)", ">_<")
    ] == [
        "long hair",
        "^_^",
        "||_||",
        "hatsune miku (cosplay)",
        ">_<",
    ]


def reference(path: str, image: Image.Image) -> list[float]:
    """Run the model by hand: white square, BGR."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(
        square.resize((_tiny_tagger.SIDE,) * 2, Image.Resampling.BICUBIC), dtype=np.float32
    )[None, ..., ::-1]
    session = onnxruntime.InferenceSession(
        f"{path}/model.onnx", providers=["CPUExecutionProvider"]
    )
    return [float(share) for share in session.run(None, {"input": pixels})[0][0]]


def test_tags_are_those_of_the_model(
    folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    opaque = images[:4]
    path, options = (
        folder("wd14"),
        {"thresholds": {"general": 0.5, "character": 0.5}, "rating": True},
    )
    tags = [Tag(spoken(name), category) for name, category in _tiny_tagger.TAGS]
    expected = [
        ", ".join(choose(tags, reference(path, image), Options(**options))) for image in opaque
    ]
    assert wd14.load(config(path, options)).caption(opaque) == expected
    assert len(set(expected)) > 1


def test_what_is_transparent_is_white(folder: Callable[[str], str]) -> None:
    tagger = wd14.load(config(folder("wd14")))
    clear, white = Image.new("RGBA", (40, 20), (0, 0, 0, 0)), Image.new("RGB", (40, 20), "white")
    assert tagger.caption([clear]) == tagger.caption([white])


def test_the_separator_and_the_spelling_are_the_config_s(folder: Callable[[str], str]) -> None:
    white = [Image.new("RGB", (9, 9), "white")]
    every = {"thresholds": {"general": 0.0}, "keep_underscores": True}
    [text] = wd14.load(config(folder("wd14"), every, separator="|")).caption(white)
    assert {"red_star", "blue_circle", "long_hair", "^_^"} <= set(str(text).split(" | "))


def test_a_model_of_a_fixed_batch_is_fed_so(
    folder: Callable[[str], str], images: list[Image.Image], tmp_path: Path
) -> None:
    expected = wd14.load(config(folder("wd14"))).caption(images)
    for batch in (1, 2):
        root = tmp_path / str(batch)
        shutil.copytree(folder("wd14"), root)
        model = onnx.load(root / "model.onnx")
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, root / "model.onnx")
        assert wd14.load(config(root)).caption(images) == expected


def test_the_version_follows_weights_tags_and_options(
    folder: Callable[[str], str], tmp_path: Path
) -> None:
    base = config(folder("wd14"))
    wd14.tiny(str(tmp_path / "weights"), seed=1)
    shutil.copytree(folder("wd14"), tmp_path / "tags")
    (tmp_path / "tags" / "selected_tags.csv").write_text("tag_id,name,category,count\n")
    others = [
        config(tmp_path / "weights"),
        config(tmp_path / "tags"),
        config(base.path, separator=";"),
    ]
    others += [
        config(base.path, {"thresholds": {"general": 0.4}}),
        config(base.path, {"rating": True}),
    ]
    versions = [wd14.version(settings) for settings in (base, *others)]
    assert len(set(versions)) == len(versions)
    with pytest.raises(UserError, match="cannot be asked anything"):
        wd14.version(config(base.path, prompt="tags"))


def damaged(root: Path) -> None:
    (root / "model.onnx").write_bytes(b"no model")


def with_too_few_tags(root: Path) -> None:
    (root / "selected_tags.csv").write_text("tag_id,name,category,count\n1,cat,0,1\n")


def without_categories(root: Path) -> None:
    (root / "selected_tags.csv").write_text("tag_id,name\n1,cat\n")


def of_another_input(root: Path) -> None:
    shape = [1, 3, 32, 32]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "other",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        root / "model.onnx",
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "selected_tags.csv").unlink(), "lacks selected_tags.csv"),
        (damaged, "is no ONNX model"),
        (with_too_few_tags, "model.onnx gives 12 tags and selected_tags.csv names 1"),
        (without_categories, "must have the columns name and category"),
        (of_another_input, r"its input is \[1, 3, 32, 32\]"),
    ],
)
def test_a_damaged_folder_is_one_message(
    damage: Callable[[Path], Any], message: str, folder: Callable[[str], str], tmp_path: Path
) -> None:
    root = tmp_path / "tagger"
    shutil.copytree(folder("wd14"), root)
    damage(root)
    with pytest.raises(UserError, match=message):
        wd14.load(config(root))


def test_a_missing_library_is_named(
    folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'raytrain\[tagger\]'"):
        wd14.load(config(folder("wd14")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": {"general": 1.5}}, "from 0 to 1"),
        ({"thresholds": {"cats": 0.5}}, "character"),
    ],
)
def test_options_are_checked_with_the_config(
    options: dict[str, Any], message: str, folder: Callable[[str], str]
) -> None:
    with pytest.raises(UserError, match=message):
        config(folder("wd14"), options)
