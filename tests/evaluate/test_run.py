"""Evaluation end to end on tiny models: a prepared dataset, a checkpoint,
and the files that come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import jobs.evaluate
from raytrain import checkpoint, families
from raytrain.checkpoint import Checkpoint
from raytrain.config import Config
from raytrain.config.file import parse, to_toml
from raytrain.data.store import schema
from raytrain.errors import UserError
from raytrain.evaluate.run import evaluate, measure
from raytrain.evaluate.subject import Judges, Subject, training_images
from raytrain.model import build
from raytrain.sample import load_model, sample
from raytrain.train.hooks.images import Images
from tests import stored
from tests.encoders import Encoders

CPU = torch.device("cpu")
IMAGES = 8
SIDE = 64


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, clip_folder: str) -> Config:
    """A tiny model, its dataset of 8 images (2 of training, 6 held out)
    and one checkpoint with loud weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    family = families.load("sd15")
    family.tiny(str(folder / "model"))
    config = parse(
        {
            "output": str(folder / "run"),
            "model": {"path": str(folder / "model")},
            "data": {"source": str(folder / "images"), "buckets": {"resolution": SIDE}},
            "sample": {"steps": 2, "max_prompts": 3, "images_per_prompt": 2},
            "evaluate": {"clip": clip_folder, "timesteps": 2, "bootstrap": 100},
        }
    )
    write_dataset(config)
    torch.manual_seed(1)
    learned = build(config, CPU).state()
    weights = {name: 0.3 * torch.randn_like(value) for name, value in learned.items()}
    save(config, weights)
    return config


def save(config: Config, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint of these weights."""
    state = {
        "step": 7,
        "metrics": {},
        "config": config.values(),
        "dataset": "x",
        "commit": "c",
        "versions": {},
    }
    checkpoint.save(config.output, Checkpoint(weights, {}, state), keep=1)


def write_dataset(config: Config) -> None:
    """Encode drawn images in this process and write them as one shard."""
    encoders = Encoders(config.model, torch.device("cpu"), torch.float32)
    images = [Image.effect_noise((SIDE, SIDE), 20 * (i + 1)).convert("RGB") for i in range(IMAGES)]
    Path(config.data.source).mkdir()
    for number, image in enumerate(images):
        image.save(Path(config.data.source) / f"{number}.png")
    pixels = (
        torch.from_numpy(np.stack([np.asarray(p) for p in images])).permute(0, 3, 1, 2).float()
        / 127.5
        - 1
    )
    captions = [f"a noise number {number}" for number in range(IMAGES)]
    latents, text = encoders.encode_images(pixels), encoders.encode_captions(captions)["text"]
    columns = {
        "latents": {"latents": [row.half().numpy().tobytes() for row in latents]},
        "text": {"text": [row.half().numpy().tobytes() for row in text]},
    }
    paths = [f"{number}.png" for number in range(IMAGES)]
    splits = ["train" if number < 2 else "held_out" for number in range(IMAGES)]
    content = stored.Content(
        columns, captions, splits, paths, [f"{config.data.source}/{path}" for path in paths]
    )
    stored.write(
        config.dataset,
        {schema.bucket_name(SIDE, SIDE): content},
        {
            "latents": stored.LATENTS,
            "text": stored.caption_column(text=("float16", tuple(text.shape[1:]))),
        },
    )


def test_the_job_compares_checkpoint_and_base_and_writes_everything(
    run: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(to_toml(run), encoding="utf-8")
    assert jobs.evaluate.main([str(file)]) == 0
    folder = Path(run.output) / "evaluation"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["checkpoint"], report["step"]) == ("step-00000007", 7)
    assert (
        set(report["base"])
        == set(report["tuned"])
        == set(report["differences"])
        == set(run.evaluate.scorers)
    )
    assert report["not_applicable"] == []
    assert len(report["samples"]["base"]["held_out_loss"]) == IMAGES - 2
    assert len(report["samples"]["tuned"]["clip_text"]) == 6
    assert [entry["seed"] for entry in report["images"]] == [0, 1, 2, 3, 4, 5]
    assert [entry["prompt"] for entry in report["images"]][:3] == [report["prompts"][0]] * 2 + [
        report["prompts"][1]
    ]
    assert report["config"] == run.values()
    assert report["versions"]["torch"]
    for name in ("base", "tuned"):
        assert len(list((folder / name).glob("*.png"))) == 6
    assert (folder / "base/000.png").read_bytes() != (folder / "tuned/000.png").read_bytes()
    assert Image.open(folder / "base-vs-tuned.png").width > 3 * SIDE
    html = (Path(run.output) / "report.html").read_text(encoding="utf-8")
    assert html == (folder / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/webp;base64,") == 12
    printed = capsys.readouterr().out
    assert "Text alignment" in printed
    assert "Held-out loss" in printed
    assert "report.html" in printed
    assert report["headline"][:30] in printed


def test_new_words_are_no_words_of_the_base_and_the_judge(run: Config, tmp_path: Path) -> None:
    def asked(text: str) -> dict[str, Any]:
        return {
            **run.values(),
            "sample": {"steps": 2, "prompts": [text], "width": SIDE, "height": SIDE},
            "evaluate": {**run.values()["evaluate"], "scorers": ["clip_text"]},
        }

    method = {"name": "textual_inversion", "tokens": ["<new>"]}
    config = parse({**asked("<new>, a star"), "output": str(tmp_path / "word"), "method": method})
    learned = build(config, CPU).state()
    weights = {name: 5 * torch.ones_like(value) for name, value in learned.items()}
    save(config, weights)
    told: list[str] = []
    evaluate(config, tell=told.append)
    folder = tmp_path / "word/evaluation"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert "The base model is asked in words it knows, such as 'a star'" in told
    assert report["images"][0]["prompt"] == "<new>, a star"
    assert report["images"][0]["base_prompt"] == "a star"
    plain = parse({**asked("a star"), "output": str(tmp_path / "plain")})
    sample(plain, "base")
    assert (tmp_path / "plain/images/000.png").read_bytes() == (
        folder / "base/000.png"
    ).read_bytes()
    judge = Subject(plain, [Image.open(folder / "tuned/000.png")], ["a star"], Judges(plain, CPU))
    alignment = pytest.approx(measure(judge)["clip_text"][0])
    assert report["samples"]["tuned"]["clip_text"] == [alignment]
    model = load_model(config, checkpoint.learned(config.output), CPU)
    validation = Images(config, dataset=None, model=model, device=CPU)
    assert validation.score(7, ["clip_text"], []) == {"clip_text": alignment}
    assert "base: a star" in (tmp_path / "word/report.html").read_text(encoding="utf-8")


def test_evaluating_twice_gives_the_same_numbers(run: Config) -> None:
    folder = Path(run.output) / "evaluation"
    evaluate(run)
    first = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    evaluate(run, "best")
    second = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert first["samples"] == second["samples"]
    assert first["differences"] == second["differences"]


def test_base_alone_and_a_run_without_checkpoints_are_told_in_a_sentence(
    run: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="cannot be `base` itself"):
        evaluate(run, "base")
    with pytest.raises(UserError, match="holds no checkpoint"):
        evaluate(run.model_copy(update={"output": str(tmp_path)}))


def test_references_are_the_training_images_and_no_more_than_asked_for(run: Config) -> None:
    found = training_images(run)
    wanted = [np.asarray(Image.open(Path(run.data.source) / f"{number}.png")) for number in (0, 1)]
    assert len(found) == 2
    assert all(
        any(np.array_equal(np.asarray(image), other) for other in wanted) for image in found
    )
    fewer = run.model_copy(
        update={"evaluate": run.evaluate.model_copy(update={"max_references": 1})}
    )
    assert len(training_images(fewer)) == 1


def test_lost_training_images_are_told_in_a_sentence(run: Config, tmp_path: Path) -> None:
    images = Path(run.data.source)
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"none of the 2 of .* can be opened"):
        training_images(run)
    (tmp_path / "elsewhere").rename(images)


def test_without_a_dataset_there_are_no_references(tmp_path: Path) -> None:
    assert training_images(parse({"output": str(tmp_path), "model": {"path": "x"}})) == []
