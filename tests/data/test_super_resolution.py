"""Small images are enlarged by a model before they are resized, or left out, as asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Swin2SRForImageSuperResolution

from raytrain.config import Config
from raytrain.data.image.transform import Placement, Transform
from raytrain.data.prepare import prepare
from raytrain.data.tools.gallery import write_gallery
from raytrain.errors import UserError
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same
from tests.data.tiny_models import swin2sr

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def reference(file: Path, folder: str) -> Image.Image:
    """Return an image four times as large, by the published model's own call."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    levels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    width, height = image.size  # padded by their mirror image to the next multiple of 8
    after = ((0, 0), (0, 0), (0, 8 - height % 8), (0, 8 - width % 8))
    padded = torch.from_numpy(np.pad(levels, after, mode="symmetric"))
    with torch.no_grad():
        found = Swin2SRForImageSuperResolution.from_pretrained(folder)(padded).reconstruction[0]
    cut = found[:, : 4 * height, : 4 * width].clamp(0, 1).permute(1, 2, 0)
    return Image.fromarray((255 * cut).round().byte().numpy())


@pytest.fixture
def config(tmp_path: Path, make_config: Make) -> Callable[..., Config]:
    draw(tmp_path / "images/small.png", 1, (44, 40), "small")
    draw(tmp_path / "images/enough.png", 2, (56, 50), "enough")
    folder = swin2sr(tmp_path / "swin2sr")

    def make(**more: Any) -> Config:
        data = {"super_resolution": {"path": folder}, **more}
        return make_config(
            held_out=0.0, buckets={"sizes": [[64, 64]], "step": 16}, encode={"batch": 1}, **data
        )

    return make


def test_small_images_alone_are_enlarged_by_the_model(
    tmp_path: Path, config: Callable[..., Config]
) -> None:
    # 44 x 40 is resized to 70 x 64, and 44 < .75 x 70; 56 x 50 to 72 x 64, and 56 >= .75 x 72.
    made = config()
    report = prepare(made)
    assert report.made["latents"] == 2
    found, direct = rows(made), Direct(made)
    for name, size, large in (("small", (70, 64), True), ("enough", (72, 64), False)):
        file = tmp_path / f"images/{name}.png"
        for enlarged in (True, False):
            image = (
                reference(file, made.data.super_resolution.path) if enlarged else Image.open(file)
            )
            left = (size[0] - 64) // 2
            cut = np.asarray(image.resize(size, Image.Resampling.LANCZOS))[:, left : left + 64]
            [version] = found[f"{name}.png"]["latents"]
            assert same(version, direct.latents(cut)) == (enlarged == large)


def test_another_model_or_share_costs_the_images_it_concerns(
    tmp_path: Path, config: Callable[..., Config]
) -> None:
    prepare(config())
    assert prepare(config()).made == {}
    other = {"path": swin2sr(tmp_path / "other", seed=1)}
    report = prepare(config(super_resolution=other))
    assert report.made == {"latents": 1}
    assert "made with another super_resolution: those of its latents" in report.notes[0]
    assert prepare(config(super_resolution={**other, "below": 0.9})).made == {"latents": 1}
    assert prepare(config(super_resolution={})).made == {"latents": 1}, (
        "the other was resized alone before"
    )
    prepare(config())
    page = Path(write_gallery(config().dataset)).read_text(encoding="utf-8")
    assert page.count("drawn without its super resolution") == 1
    assert page.count("not drawn") == 0


def test_an_image_is_enlarged_once_for_all_its_versions(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.data.annotate import super_resolution, versions

    seen: list[Any] = []
    enlarge = super_resolution.Enlarger.enlarge
    monkeypatch.setattr(
        super_resolution.Enlarger,
        "enlarge",
        lambda self, image: (seen.append(image), enlarge(self, image))[1],
    )
    maker = versions.Maker(config().data)
    image = Image.new("RGB", (20, 20), "red")
    for left in range(3):
        maker.pixels(image, Transform(Placement(70, 64, 0, left)), (64, 64))
    assert len(seen) == 1


def test_what_cannot_be_is_refused(
    tmp_path: Path, config: Callable[..., Config], make_config: Make
) -> None:
    with pytest.raises(UserError, match="nowhere"):
        prepare(config(super_resolution={"path": str(tmp_path / "nowhere")}))
    with pytest.raises(UserError, match="keeps from being enlarged"):
        make_config(buckets={"upscale": False}, super_resolution={"path": "any"})


def test_small_areas_are_left_out_with_their_reason(config: Callable[..., Config]) -> None:
    report = prepare(config(quality={"min_area": 1761}, super_resolution={}))
    assert report.rules == {"area": 1}
    assert report.rejected[0].path == "small.png"
    assert report.rejected[0].reason == ("44x40 = 1760 pixels: below data.quality.min_area = 1761")
    assert prepare(config(quality={"min_area": 1760}, super_resolution={})).rules == {}
