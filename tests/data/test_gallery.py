"""The preview: the pixels that were encoded, proven; one file that opens without a network,
in a real browser too."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.data.prepare import prepare
from raytrain.data.tools import gallery
from raytrain.data.tools.gallery import write_gallery
from raytrain.errors import UserError
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def images(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def encoded(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Prepare, and return the pixels that went to the VAE."""
    from raytrain.data.pipeline.encode import ShardEncoder

    seen: list[bytes] = []
    real = ShardEncoder._encode

    def keep(self: Any, name: str, values: Any) -> Any:
        seen.extend(value.cut.tobytes() for value in values)
        return real(self, name, values)

    monkeypatch.setattr(ShardEncoder, "_encode", keep)
    prepare(config)
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": {"flip": True, "colors": 1, "zooms": 1, "outpaints": 1}},
        {
            "buckets": {"resolution": 64, "step": 16, "crop": "random"},
            "augment": {"crops": 2, "flip": True},
        },
        {"buckets": {"rule": "mean", "resolution": 64, "step": 16}},
        {"buckets": {"rule": "kohya", "resolution": 64, "step": 16, "upscale": False}},
    ],
)
def test_it_shows_the_pixels_that_were_encoded(
    source: Path, make_config: Make, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "12.png").write_bytes((source / "00.png").read_bytes())
    Image.open(source / "01.png").convert("RGBA").rotate(30).save(source / "13.png")
    config = make_config(**settings)
    seen = encoded(config, monkeypatch)
    drawn: list[bytes] = []
    real = gallery._image
    monkeypatch.setattr(
        gallery,
        "_image",
        lambda image, longest: (drawn.append(image.tobytes()), real(image, longest))[1],
    )
    html = Path(write_gallery(config.dataset, seed=config.seed, per_bucket=50)).read_text(
        encoding="utf-8"
    )
    assert sorted(drawn) == sorted(seen), "every version, and nothing else"
    assert "could not be drawn again" not in html


def test_what_cannot_be_proven_is_not_shown(source: Path, make_config: Make) -> None:
    from raytrain.config.file import parse

    config = parse({**make_config(augment={"colors": 1}, held_out=0.0).values(), "seed": 9})
    prepare(config)
    html = Path(write_gallery(config.dataset)).read_text(encoding="utf-8")
    assert "12 versions could not be drawn again" in html
    assert len(images(html)) == 12
    assert (
        len(images(Path(write_gallery(config.dataset, seed=9)).read_text(encoding="utf-8"))) == 24
    )


def test_sources_that_are_gone_are_said_to_be(
    source: Path, make_config: Make, tmp_path: Path
) -> None:
    config = make_config()
    prepare(config)
    (source / "05.png").unlink()
    draw(source / "06.png", 999)
    html = Path(write_gallery(config.dataset, target=str(tmp_path / "page.html"))).read_text(
        encoding="utf-8"
    )
    assert "the file is not there" in html
    assert "2 images could not be read" in html
    shutil.rmtree(source)
    with pytest.raises(UserError, match=r"None of the 12 images .* the file is not there"):
        write_gallery(config.dataset)


@pytest.mark.browser
def test_the_page_in_a_browser(
    source: Path, make_config: Make, browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By

    for number in range(12):
        file = source / f"{number:02}.png"
        image = Image.open(file).convert("RGBA")
        alpha = np.zeros(image.size[::-1], np.uint8)
        alpha[:, : image.width // 2] = 255
        image.putalpha(Image.fromarray(alpha))
        image.save(file)
    (source / "03.txt").write_text('<script>alert(1)</script> & "quotes" größe', encoding="utf-8")
    config = make_config(masks={"kind": "alpha"}, augment={"flip": True}, captions={"variants": 2})
    prepare(config)
    file = Path(write_gallery(config.dataset))
    html = file.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "&lt;script&gt;" in html
    for width in (1280, 390):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(file.as_uri())
        browser.execute_script("for (const image of document.images) image.loading = 'eager'")
        browser.execute_async_script(
            "Promise.all([...document.images].map(i => i.decode())).then(arguments[0])"
        )
        sizes = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
        assert len(sizes) == 12 * 3, "each with its mask and its mirror image"
        assert all(sizes)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    veil = browser.find_element(By.CSS_SELECTOR, ".veil")
    whole = browser.find_element(By.CSS_SELECTOR, ".whole > img")
    assert veil.size == whole.size
    assert veil.is_displayed()
    browser.find_element(By.ID, "masks").click()
    assert not veil.is_displayed()
    assert browser.get_log("browser") == []
    messages = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    asked = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    assert not {
        url for url in asked if not url.startswith(("data:", "chrome:")) and url != file.as_uri()
    }
