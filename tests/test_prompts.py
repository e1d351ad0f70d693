"""What is drawn: prompts of the config, of a prompt file with kohya's flags, or captions;
each with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.read import Dataset
from raytrain.errors import UserError
from raytrain.sampling import prompt_file
from raytrain.sampling.generate import generate
from raytrain.sampling.grid import by_prompt, grid
from raytrain.sampling.prompts import Prompt, prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raytrain.families import sd15

    folder = str(tmp_path_factory.mktemp("sd15"))
    sd15.tiny(folder)
    return folder


@pytest.fixture
def make(model: str, tmp_path: Path) -> Callable[..., Config]:
    """Return a config without a dataset; `lines` become its prompt file,
    other arguments go into [sample]."""

    def config(lines: str = "", method: str = "lora", **sample: Any) -> Config:
        settings: dict[str, Any] = {
            "width": 64,
            "height": 48,
            "seed": 10,
            "steps": 9,
            "guidance_scale": 3.0,
            **sample,
        }
        if lines:
            file = tmp_path / "prompts.txt"
            file.write_text(lines, encoding="utf-8")
            settings["prompt_file"] = str(file)
        return parse(
            {
                "output": str(tmp_path / "run"),
                "model": {"path": model},
                "method": {"name": method},
                "sample": settings,
            }
        )

    return config


def test_flags_of_a_line_replace_the_tables_settings(make: Callable[..., Config]) -> None:
    lines = """
# a comment
a red star, 4--5 rays
a blue heart --n blurry, dull --w 96 --h 32 --d 7 --l 5.5 --s 20

  --d 3
"""
    star, heart, empty = prompts(make(lines, negative_prompt="bad"), None)
    assert star == Prompt("a red star, 4--5 rays", "bad", 10, (64, 48), 3.0, 9)
    assert heart == Prompt("a blue heart", "blurry, dull", 7, (96, 32), 5.5, 20)
    assert empty == Prompt("", "bad", 3, (64, 48), 3.0, 9)


def test_image_i_has_seed_plus_i_and_own_seeds_count_from_themselves(
    make: Callable[..., Config],
) -> None:
    config = make("b --d 100\nc", prompts=["a"], images_per_prompt=2)
    found = prompts(config, None)
    assert [(each.text, each.seed) for each in found] == [
        ("a", 10), ("a", 11), ("b", 100), ("b", 101), ("c", 14), ("c", 15)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a star --z 5", r"prompts\.txt:1: the flag '--z' is not known.*Known are --n"),
        ("a star --ss euler_a", r"'--ss' is not known.*set in \[sample\]"),
        (
            "a star --w wide",
            r"prompts\.txt:1: '--w' must be a whole number of at least 16, got 'wide'",
        ),
        ("a star --w 8", r"at least 16, got '8'"),
        ("a star --l nan", r"'--l' must be a number of at least 0, got 'nan'"),
        ("a star --n", r"'--n' must be followed by a value"),
        ("a star --cn a.png --ci b.png", "sets control a second time"),
        ("a star --w 60", r"multiples of 8 pixels, got 60x48 for .*prompts\.txt:1"),
        (
            "a star --cn edges.png",
            r'prompts\.txt:1 \(--cn\) gives a control image, but method\.name = "lora"',
        ),
    ],
)
def test_what_cannot_be_drawn_is_told_with_its_line(
    make: Callable[..., Config], line: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prompts(make(line), None)


def test_a_missing_file_is_told(make: Callable[..., Config]) -> None:
    with pytest.raises(UserError, match=r"prompt_file 'nowhere\.txt' is no file here"):
        prompts(make(prompt_file="nowhere.txt"), None)


def test_prompts_beyond_the_limit_are_told(make: Callable[..., Config]) -> None:
    told: list[str] = []
    found = prompts(make("\n".join("abcde"), max_prompts=3), None, told.append)
    assert [each.text for each in found] == ["a", "b", "c"]
    assert told == [
        "Of 5 prompts the first 3 are drawn (sample.max_prompts = 3); raise it to draw the others "
        "too."
    ]
    told.clear()
    prompts(make("\n".join("abc"), max_prompts=3), None, told.append)
    assert not told


def test_captions_of_held_out_images_are_the_default(run_config: Callable[..., Config]) -> None:
    config = run_config(sample={"max_prompts": 3, "seed": 5})
    dataset = Dataset(config.dataset)
    held_out = {row["captions"][0] for row in dataset.details("held_out", ("captions",))}
    found = prompts(config, dataset)
    assert len({each.text for each in found} & held_out) == 3
    assert [each.seed for each in found] == [5, 6, 7]
    assert len({each.size for each in found}) == 1
    [empty] = prompts(config, None)
    assert empty.text == ""


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    """Three control images: red and of the sample's shape, green and too wide,
    blue and too small."""
    folder = tmp_path / "edges"
    folder.mkdir()
    for name, color, size in (
        ("a", "red", (64, 48)),
        ("b", "lime", (300, 48)),
        ("c", "blue", (32, 24)),
    ):
        Image.new("RGB", size, color).save(folder / f"{name}.png")
    return folder


def colors(found: list[Prompt]) -> list[tuple[Any, tuple[int, int]]]:
    return [
        (each.inputs["control"].getpixel((5, 5)), each.inputs["control"].size) for each in found
    ]


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_control_images_come_from_a_list_a_folder_or_a_flag(
    make: Callable[..., Config], edges: Path
) -> None:
    size = (64, 48)
    listed = make(
        method="controlnet",
        prompts=["x", "y"],
        controls=[str(edges / "c.png"), str(edges / "a.png")],
    )
    assert colors(prompts(listed, None)) == [(BLUE, size), (RED, size)]
    folder = make("z", method="controlnet", prompts=["x", "y"], controls=[str(edges)])
    assert colors(prompts(folder, None)) == [(RED, size), (GREEN, size), (BLUE, size)]
    flag = make(
        "x --cn edges/b.png --w 32 --h 32",
        method="controlnet",
        prompts=["y"],
        controls=[f"{edges}/c.png"],
    )
    assert colors(prompts(flag, None)) == [(BLUE, size), (GREEN, (32, 32))]


@pytest.mark.parametrize(
    ("method", "sample", "message"),
    [
        (
            "controlnet",
            {"prompts": ["x"]},
            r"sample\.prompts\[0\] has none.*Give sample\.controls",
        ),
        ("controlnet", {}, r"the empty prompt has none"),
        (
            "controlnet",
            {"prompts": ["x"], "controls": ["edges"]},
            "one control image for each prompt, got 3 for 1",
        ),
        (
            "controlnet",
            {"controls": ["edges"]},
            r"is for the prompts of sample\.prompts.* Give prompts",
        ),
        (
            "controlnet",
            {"prompts": ["x"], "controls": ["nothing"]},
            "is no image and no folder with images",
        ),
        (
            "controlnet",
            {"prompts": ["x"], "controls": ["no.png"]},
            r"'no\.png' of sample\.prompts\[0\] cannot be read",
        ),
        (
            "controlnet",
            {"prompts": ["x"], "controls": ["bad.png"]},
            r"'bad\.png' .* cannot be read",
        ),
        (
            "lora",
            {"prompts": ["x"], "controls": ["edges"]},
            r'sample\.controls gives .* "lora" takes none',
        ),
    ],
)
def test_control_images_that_are_missing_or_have_no_effect_are_told(
    make: Callable[..., Config],
    edges: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    sample: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(edges.parent)
    Path("bad.png").write_text("no image")
    with pytest.raises(UserError, match=message):
        prompts(make(method=method, **sample), None)


class Recorder:
    """A pipeline that draws each prompt as an image of its seed, and keeps its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **settings: Any) -> Any:
        self.calls.append(settings)
        size = (settings["width"], settings["height"])
        seeds = [generator.initial_seed() for generator in settings["generator"]]
        return SimpleNamespace(images=[Image.new("RGB", size, (seed, 0, 0)) for seed in seeds])


def test_equal_prompts_are_drawn_together_and_come_back_in_order() -> None:
    small, large = (16, 16), (32, 16)
    asked = [
        Prompt("a", seed=1, size=small),
        Prompt("b", "bad", seed=2, size=large),
        Prompt("c", seed=3, size=small),
        Prompt("d", seed=4, size=small, steps=5),
        Prompt("e", seed=5, size=small),
        Prompt("f", seed=6, size=small, guidance_scale=1.0),
    ]
    recorder = Recorder()
    images = generate(recorder, asked, 2, lambda some: {"extra": [prompt.text for prompt in some]})
    assert [call["prompt"] for call in recorder.calls] == [["a", "c"], ["e"], ["b"], ["d"], ["f"]]
    assert all(call["extra"] == call["prompt"] for call in recorder.calls)
    assert [call["num_inference_steps"] for call in recorder.calls] == [30, 30, 30, 5, 30]
    assert [call["guidance_scale"] for call in recorder.calls] == [7.5, 7.5, 7.5, 7.5, 1.0]
    assert recorder.calls[2]["negative_prompt"] == ["bad"]
    assert [image.getpixel((0, 0))[0] for image in images] == [1, 2, 3, 4, 5, 6]
    assert [image.size for image in images] == [small, large, small, small, small, small]


def test_the_grid_shows_the_control_image_and_fits_all_shapes() -> None:
    red, green, blue = (
        Image.new("RGB", size, color)
        for size, color in (((80, 48), RED), ((80, 48), GREEN), ((48, 80), BLUE))
    )
    asked = [
        Prompt("x", size=(80, 48), inputs={"control": red}),
        Prompt("y", size=(48, 80), inputs={"control": blue}),
    ]
    rows = by_prompt(asked, [green, blue], 1)
    sheet = np.asarray(grid(rows))
    assert sheet.shape == (2 * (160 + 6) + 6, 2 * (160 + 6) + 6, 3)
    for y, x, color in ((86, 86, RED), (86, 252, GREEN), (252, 86, BLUE), (252, 252, BLUE)):
        assert tuple(sheet[y, x]) == color
    assert tuple(sheet[252, 10]) == (255, 255, 255), "beside the narrow image"


def test_a_control_image_lies_beside_the_file_or_where_it_says(tmp_path: Path) -> None:
    assert prompt_file.parse("x --cn a.png", "f:1", tmp_path).control == str(tmp_path / "a.png")
    assert prompt_file.parse("x --cn /b/a.png", "f:1", tmp_path).control == "/b/a.png"
    assert prompt_file.parse("x --cn s3://b/a.png", "f:1", tmp_path).control == "s3://b/a.png"
