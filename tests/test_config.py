"""The config: strict, frozen, one clear message for every mistake, and a faithful round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from raytrain.config.file import load, parse, schema, to_toml
from raytrain.config.unread import unread
from raytrain.errors import UserError
from raytrain.toy.start import write_config

BASE: dict[str, Any] = {"output": "runs/x", "model": {"path": "some/model"}}


def message(**tables: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse({**BASE, **tables})
    return str(caught.value)


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        (
            {"train": {"learning_rte": 1e-4}},
            ["train.learning_rte", "Did you mean 'learning_rate'?", "Allowed:"],
        ),
        ({"trian": {}}, ["trian", "Did you mean 'train'?"]),
        ({"method": {"name": "lora", "rnk": 4}}, ["method.rnk", "Did you mean 'rank'?"]),
        ({"method": {"name": "lroa"}}, ["lroa", "lora", "full"]),
        ({"model": {"path": "a/b", "family": "sdx"}}, ["sdx", "Did you mean 'sdxl'?"]),
        ({"data": {"buckets": {"crop": "False"}}}, ["data.buckets.crop", "False", "center"]),
        ({"log": {"tensorboard": "False"}}, ["log.tensorboard", "False", "boolean"]),
        ({"train": {"learning_rate": "1e-4"}}, ["train.learning_rate", "1e-4", "number"]),
        ({"train": {"epochs": 1, "steps": 1}}, ["epochs or steps, not both"]),
        (
            {"data": {"subsets": [{"source": "a", "repeat": 3}]}},
            ["data.subsets.0.repeat", "Did you mean 'repeats'?", "Allowed: caption_column"],
        ),
        (
            {"data": {"quality": {"scores": [{"name": "a", "kind": "file", "mim": 1}]}}},
            ["data.quality.scores.0.mim", "Did you mean 'min'?"],
        ),
        ({"data": {"subsets": [{"source": "a", "weight": 0.0}]}}, ["weight = 0 of every one"]),
        ({"train": {"engine": "plain", "workers": 2}}, ["plain", "workers=2"]),
        ({"train": {"optimizer": "adamw8bit", "engine": "zero2"}}, ["adamw8bit", "zero2"]),
        (
            {"train": {"optimizer": "paged_adamw8bit", "engine": "zero1"}},
            ["paged_adamw8bit", "zero1"],
        ),
        (
            {"model": {"path": "a/b", "quantize": "nf4"}, "method": {"name": "full"}},
            ["nf4", "'full'", "Use a LoRA"],
        ),
        (
            {"model": {"path": "a/b", "quantize": "int8"}, "train": {"engine": "zero3"}},
            ["int8", "zero3", "zero2"],
        ),
        (
            {"train": {"lr_schedule_cycles": 3}},
            ["lr_schedule_cycles", "cosine_restarts", "'constant'"],
        ),
        ({"train": {"warmup": "5 steps"}}, ["train.warmup", "5 steps", '"5 %"']),
        ({"train": {"global_batch": 3, "workers": 2}}, ["global_batch=3", "workers=2"]),
        ({"objective": {"timestep_range": [0.5, 0.5]}}, ["timestep_range", "[0.5, 0.5]"]),
        ({"data": {"buckets": {"sizes": [[65, 64]]}}}, ["65x64", "step=64"]),
        ({"data": {"captions": {"captioner": "blip"}}}, ["blip", "path"]),
        (
            {"data": {"captions": {"captioner": "openai", "options": {"modle": "x"}}}},
            ["'data.captions.options.modle'", "Did you mean 'model'?", "Allowed:"],
        ),
        (
            {
                "data": {
                    "captions": {
                        "rewriter": "openai",
                        "rewriter_options": {"base_url": "http://x", "retires": 1},
                    }
                }
            },
            ["'data.captions.rewriter_options.retires'", "Did you mean 'retries'?"],
        ),
        (
            {"data": {"masks": {"kind": "face", "options": {"sid": 3}}}},
            ["'data.masks.options.sid'", "'side'"],
        ),
        (
            {"data": {"masks": {"kind": "face", "options": {"side": 3}}}},
            ["data.masks.options.side = 3", "32"],
        ),
        (
            {"data": {"masks": {"kind": "alpha", "options": {"x": 3}}}},
            ["'data.masks.options.x'", "takes no options"],
        ),
        (
            {"data": {"controls": {"kind": "canny", "options": {"low": "1"}}}},
            ["data.controls.options.low = '1'", "number"],
        ),
        (
            {
                "data": {
                    "quality": {
                        "scores": [{"name": "s", "kind": "sharpness", "options": {"sides": 3}}]
                    }
                }
            },
            ["'data.quality.scores.s.options.sides'", "Did you mean 'side'?"],
        ),
        ({"evaluate": {"scorers": ["clip_txt"]}}, ["clip_txt", "clip_text"]),
        ({"evaluate": {"scorers": ["aesthetic"]}}, ["evaluate.aesthetic"]),
        ({"export": {"formats": ["kohia"]}}, ["kohia", "kohya"]),
        ({"tune": {"space": {"train.learning_rate": {"log": [1e-3, 1e-4]}}}}, ["low < high"]),
        (
            {"tune": {"space": {"data.source": {"choice": ["a"]}}}},
            ["data.source", "cannot be searched"],
        ),
    ],
)
def test_a_mistake_is_one_clear_message(tables: dict[str, Any], parts: list[str]) -> None:
    text = message(**tables)
    assert len(text.splitlines()) == 1
    for part in parts:
        assert part in text


def test_several_mistakes_are_all_told() -> None:
    assert len(message(train={"stepz": 1}, sample={"setps": 2}).splitlines()) == 2


def test_overrides_and_files(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('output = "o"\n[model]\npath = "m"\n')
    config = load(
        file,
        [
            "train.learning_rate=3e-4",
            "method.rank=32",
            'method.targets=["to_q"]',
            "data.source=my images",
        ],
    )
    assert (config.train.learning_rate, config.method.rank, config.data.source) == (
        3e-4,
        32,
        "my images",
    )  # type: ignore[attr-defined]
    assert config.dataset == "o/dataset"
    with pytest.raises(UserError, match="Did you mean 'rank'"):
        load(file, ["method.ranks=3"])
    with pytest.raises(UserError, match="key=value"):
        load(file, ["train.steps"])
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "none.toml")
    file.write_text("output = ")
    with pytest.raises(UserError, match="no valid TOML"):
        load(file)


def test_round_trips_and_is_frozen(tmp_path: Path) -> None:
    config = load(write_config(str(tmp_path / "q")))
    (tmp_path / "again.toml").write_text(to_toml(config))
    assert load(tmp_path / "again.toml") == config
    assert parse(json.loads(json.dumps(config.values()))) == config
    with pytest.raises(Exception, match="frozen"):
        config.train.steps = 3  # type: ignore[misc]


def test_schema_accepts_what_the_program_accepts(tmp_path: Path) -> None:
    checker = jsonschema.Draft202012Validator(schema())
    config = load(write_config(str(tmp_path / "q")))
    checker.validate(config.values())
    assert not checker.is_valid({**BASE, "train": {"learning_rte": 1}})
    assert not checker.is_valid({**BASE, "method": {"name": "lora", "rnk": 1}})


def test_a_subsets_own_trigger_reads_the_placeholder() -> None:
    tree = {"output": "x", "model": {"path": "m"}, "data": {"captions": {"placeholder": "W"}}}
    assert any("placeholder" in told for told in unread(parse(tree)))
    tree["data"] |= {"subsets": [{"source": "y", "trigger": "fox"}]}  # type: ignore[operator]
    assert not any("placeholder" in told for told in unread(parse(tree)))


def test_a_key_of_another_method_is_told_with_its_remedy(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('output = "run"\n[model]\npath = "m"\n[method]\nrank = 4\n')
    with pytest.raises(UserError, match=r"'full' has no such key.*'lora'.*--set method\.rank="):
        load(file, ["method.name=full"])
    assert load(file, ["method.name=full", "method.rank="]).method.name == "full"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_config_file_is_read_in_any_marked_encoding(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text('output = "caf\u00e9"\r\n[model]\r\npath = "m"\r\n', encoding=encoding)
    assert load(file).output == "caf\u00e9"
    file.write_bytes('output = "caf\u00e9"\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.toml' is no UTF-8 text .*save it as UTF-8"):
        load(file)


def test_the_dataset_of_an_output_on_a_store_is_on_the_store_that_its_query_names() -> None:
    config = parse({"output": "s3://b/fox?region=eu", "model": {"path": "m"}})
    assert config.dataset == "s3://b/fox/dataset?region=eu"
