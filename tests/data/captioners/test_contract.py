"""What every captioner owes: the folder is the list."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from raytrain import plugins
from raytrain.config.data import CaptionConfig
from raytrain.data.image.image import BadImage
from raytrain.table import Table

NAMES = plugins.names("data.captioners")
LOCAL = [name for name in NAMES if plugins.load("data.captioners", name).NEEDS_PATH]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_offers_the_contract(name: str) -> None:
    module = plugins.load("data.captioners", name)
    assert issubclass(module.Options, Table)
    assert module.PROMPT is None or isinstance(module.PROMPT, str)
    assert isinstance(module.NEEDS_PATH, bool)
    assert callable(module.version)
    assert callable(module.load)


@pytest.mark.parametrize("name", LOCAL)
def test_a_path_is_demanded_where_it_is_needed(name: str) -> None:
    with pytest.raises(ValueError, match=f"captioner '{name}' needs `path`"):
        CaptionConfig(captioner=name)


@pytest.mark.parametrize("name", LOCAL)
def test_images_are_captioned_in_order_the_same_in_any_batch(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    config = CaptionConfig(captioner=name, path=folder(name), max_new_tokens=6)
    captioner = plugins.load("data.captioners", name).load(config)
    captions = captioner.caption(images)
    assert [type(caption) for caption in captions] == [str] * len(images)
    assert len(set(captions)) > 1, (
        "tiny weights must tell the images apart, or this test sees no order"
    )
    assert captions == [captioner.caption([image])[0] for image in images]
    assert captioner.caption(images[::-1]) == captions[::-1]
    assert captioner.caption([]) == []
    assert all(caption == " ".join(caption.split()) for caption in captions)


@pytest.mark.parametrize("name", LOCAL)
def test_a_image_that_cannot_be_read_is_no_caption_and_no_abort(
    name: str, folder: Callable[[str], str], images: list[Image.Image]
) -> None:
    class Torn(Image.Image):
        def convert(self, *arguments: Any, **settings: Any) -> Image.Image:
            raise OSError("image file is truncated")

    config = CaptionConfig(captioner=name, path=folder(name), max_new_tokens=4)
    captioner = plugins.load("data.captioners", name).load(config)
    good, torn, other = captioner.caption([images[0], Torn(), images[1]])
    assert isinstance(torn, BadImage)
    assert "truncated" in str(torn)
    assert [good, other] == captioner.caption(images[:2])


def test_checking_a_config_imports_no_model_library() -> None:
    code = (
        "import sys; from raytrain.plugins import load, names; [load('data.captioners', n) for n "
        "in names('data.captioners')];found = {'torch', 'transformers', 'onnxruntime', "
        "'diffusers'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
