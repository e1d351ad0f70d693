"""Stored columns: the contract of each, that only what is read is made and loaded,
and token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raytrain import families, plugins
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data import columns
from raytrain.data.image.opening import Opened
from raytrain.data.image.transform import Placement, Transform
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Captions, Loader
from raytrain.data.loading.read import Dataset, check_dataset
from raytrain.data.pipeline.encode import LAYERS
from raytrain.data.prepare import prepare
from raytrain.data.store.schema import bucket_name
from raytrain.errors import UserError
from raytrain.families import sd15
from tests.data.direct import Direct
from tests.encoders import Encoders

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
COLUMNS = plugins.names("data.columns")
PARTS = {
    "control": set(),
    "latents": {"vae"},
    "mask": set(),
    "text": {"tokenizer", "text_encoder"},
    "tokens": {"tokenizer"},
}
"""What each column loads of an sd15 model."""
CPU = torch.device("cpu")


def reading(config: Config, *names: str, **options: Any) -> Config:
    """Return the config with a method that reads these columns."""
    method = {
        "name": "tests.data.token_method",
        "reads": names or ["latents", "tokens"],
        **options,
    }
    return parse(config.values() | {"method": method})


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that the parts are added to which are loaded of a model."""
    parts: list[str] = []
    real = sd15.load

    def load(model: Any, part: str, dtype: torch.dtype) -> Any:
        parts.append(part)
        return real(model, part, dtype)

    monkeypatch.setattr(sd15, "load", load)
    return parts


@pytest.fixture
def all_layers(make_config: Make) -> Config:
    return make_config(masks={"kind": "alpha"}, controls={"kind": "canny"})


def test_the_known_columns_are_there() -> None:
    assert set(PARTS) <= set(COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_stores_what_it_says_and_loads_no_more_than_it_needs(
    name: str, all_layers: Config, loaded: list[str]
) -> None:
    kind, family = columns.load(name), families.load("sd15")
    version = kind.version(all_layers, family)
    assert not loaded, "a version is known without the model"
    assert version == kind.version(all_layers, family)
    assert all(isinstance(fact, str) and fact for fact in version.values())
    assert not kind.MAKER or kind.MAKER in version
    encoder = kind.load(all_layers, family, CPU, torch.float32)
    assert set(loaded) == PARTS.get(name, set(loaded) - {"unet"})
    if kind.OF == "caption":
        one, two = encoder.encode(["a", "b", ""]), encoder.encode(["", "longer words"])
        assert {array: content.shape[1:] for array, content in one.items()} == {
            array: content.shape[1:] for array, content in two.items()
        }
        assert all(content.dtype in (np.float16, np.int32, np.uint8) for content in one.values())
        assert encoder.too_long(["a", "long words " * 80]) == [False, True]
        return
    assert kind.COMPANION in ("", "mask", "control")
    assert encoder.needs <= set(LAYERS)
    noise = Image.effect_noise((96, 80), 60)
    image = Opened(noise.convert("RGB"), noise, noise, noise.convert("RGB"))
    for bucket in ((64, 64), (80, 48)):
        cut = encoder.cut(encoder.layer(image), Transform(Placement(96, 80, 3, 5)), bucket)
        found = encoder.encode([cut, cut])
        assert {
            array: (str(content.dtype), content.shape[1:]) for array, content in found.items()
        } == {
            array: (one.dtype, one.shape_in(bucket_name(*bucket)))
            for array, one in kind.arrays(all_layers, family).items()
        }
        assert np.array_equal(next(iter(found.values()))[0], next(iter(found.values()))[1])


def test_token_ids_are_the_tokenizers_and_no_text_encoder_is_loaded(
    source: Path, make_config: Make, loaded: list[str]
) -> None:
    config = reading(make_config(held_out=0.0))
    assert prepare(config).made == {"latents": 12, "tokens": 12}
    assert set(loaded) == {"vae", "tokenizer"}
    check_dataset(config)
    dataset, tokenizer = Dataset(config.dataset), Direct(config).tokenizer
    assert list(dataset.manifest.columns) == ["latents", "tokens"]
    array = dataset.manifest.columns["tokens"].arrays["tokenizer"]
    assert (array.dtype, array.shape) == ("int32", (1, 77))
    seen = set()
    for bucket, count in dataset.counts().items():
        batch = (
            Loader(dataset, BatchSampler({bucket: count}, batch=count, seed=0, epochs=1))
            .step(0)
            .batch
        )
        captions = {
            row["id"].hex(): row["captions"][0]
            for row in dataset.details("train", ("id", "captions"))
        }
        expected = tokenizer(
            [captions[id_] for id_ in batch.ids], padding="max_length", max_length=77
        )["input_ids"]
        assert batch.columns["tokenizer"].dtype == torch.int64
        assert batch.columns["tokenizer"][:, 0].tolist() == expected
        seen.update(captions[id_] for id_ in batch.ids)
    assert len(seen) == 12


def test_a_column_more_makes_that_column_alone(
    source: Path, make_config: Make, loaded: list[str]
) -> None:
    lora = make_config(held_out=0.0)
    prepare(lora)
    before = Dataset(lora.dataset).manifest
    loaded.clear()
    report = prepare(reading(lora))
    assert (report.made, report.reused) == ({"tokens": 12}, 12)
    assert set(loaded) == {"tokenizer"}
    report = prepare(reading(lora, "latents", "text", "tokens"))
    assert (report.made, report.reused) == ({}, 36)
    assert Dataset(lora.dataset).manifest.columns["latents"] == before.columns["latents"]
    back = prepare(lora)
    assert (back.made, back.fingerprint) == ({}, before.fingerprint)


def test_words_of_the_method_change_its_token_ids_alone(source: Path, make_config: Make) -> None:
    (source / "03.txt").write_text("a <cat> here")
    prepare(reading(make_config(held_out=0.0)))
    config = reading(make_config(held_out=0.0), words=["<cat>"])
    with pytest.raises(UserError, match=r"another tokenizer .* `raytrain prepare`"):
        check_dataset(config)
    assert prepare(config).made == {"tokens": 12}
    check_dataset(config)
    tokenizer = Direct(config).tokenizer
    assert tokenizer.add_tokens(["<cat>"]) == 1
    new = tokenizer.convert_tokens_to_ids("<cat>")
    dataset = Dataset(config.dataset)
    having = [
        (
            dataset.rows(bucket, np.arange(count), columns=["tokens"]).columns["tokenizer"] == new
        ).sum(axis=(1, 2))
        for bucket, count in dataset.counts().items()
    ]
    assert sorted(np.concatenate(having).tolist()) == [0] * 11 + [1]
    assert prepare(config).made == {}


@pytest.mark.parametrize("family", plugins.names("families"))
def test_text_and_ids_of_a_row_are_of_the_same_caption_also_where_it_is_dropped(
    family: str, source: Path, make_config: Make, tmp_path: Path
) -> None:
    for number in range(12):
        (source / f"{number:02}.txt").write_text(f"{number}, red, round, small, old")
    settings = make_config(held_out=0.0, captions={"variants": 4, "tag_dropout": 0.5}).values()
    if family != "sd15":
        families.load(family).tiny(str(tmp_path / family))
        settings["model"] = {"family": family, "path": str(tmp_path / family)}
    config = reading(parse(settings), "latents", "text", "tokens")
    prepare(config)
    dataset, encoders = Dataset(config.dataset), Encoders(config.model, CPU, torch.float32)
    batch_sampler = BatchSampler(dataset.counts(), batch=6, seed=3, epochs=4)
    loader = Loader(dataset, batch_sampler, captions=Captions(0.3))
    empty = dataset.empties(["tokens"])["tokenizer"].astype(np.int64)
    met: dict[str, set[bytes]] = {}
    for number in range(batch_sampler.total_steps):
        batch = loader.step(number).batch
        with torch.no_grad():
            found = encoders.family.encode_text(encoders.text, batch.columns, config.model)
        for name in encoders.family.CONDITION:
            torch.testing.assert_close(
                batch.columns[name].float(), found[name], rtol=2e-3, atol=2e-3
            )
        for id_, ids in zip(batch.ids, batch.columns["tokenizer"], strict=True):
            met.setdefault(id_, set()).add(ids.numpy().tobytes())
    assert max(map(len, met.values())) > 2, "several variants were read"
    assert any(empty.tobytes() in ids for ids in met.values()), "some captions were dropped"


def test_only_what_is_asked_for_is_read(
    source: Path, all_layers: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(all_layers)
    dataset = Dataset(all_layers.dataset)
    assert list(dataset.manifest.columns) == ["control", "latents", "mask", "text"]
    read: list[str] = []
    real = Dataset._arrays
    monkeypatch.setattr(
        Dataset,
        "_arrays",
        lambda self, name, where: (read.append(name), real(self, name, where))[1],
    )
    bucket = next(iter(dataset.counts()))
    rows = dataset.rows(bucket, np.arange(2), columns=columns.read(all_layers))
    assert read == ["latents", "mask", "text"]
    assert set(rows.columns) == {"latents", "mask", "text", "sizes"}
    assert dataset.rows(bucket, np.arange(2), columns=["text"]).columns.keys() == {"text", "sizes"}


def test_what_a_method_reads_must_be_made_and_stored(source: Path, make_config: Make) -> None:
    config = make_config()
    prepare(config)
    control = reading(config, "latents", "text", "control")
    for stage in (prepare, check_dataset):
        with pytest.raises(
            UserError, match=r'reads control images, but data\.controls\.kind = "none"'
        ):
            stage(control)
    with pytest.raises(
        UserError,
        match=r"column 'tokens', but snapshot 1 .* latents, text; .* `raytrain prepare` again",
    ):
        check_dataset(reading(config))
    with pytest.raises(UserError, match="column 'tokens'"):
        Dataset(config.dataset).rows("64x64", np.arange(1), columns=["tokens"])
    canny = parse(
        control.values() | {"data": control.values()["data"] | {"controls": {"kind": "canny"}}}
    )
    assert prepare(canny).made == {"control": 12}
    check_dataset(canny)


def test_a_method_that_learns_words_trains_on_stored_ids(source: Path, make_config: Make) -> None:
    from raytrain.log import read_metrics
    from raytrain.train import worker

    config = parse({
        **make_config(captions={"trigger": "<new>"}).values(),
        "method": {"name": "textual_inversion", "tokens": ["<new>"], "vectors": 2},
        "train": {"steps": 2, "global_batch": 4},
        "objective": {"caption_dropout": 0.2},
        "sample": {"steps": 1, "max_prompts": 1},
        "evaluate": {"timesteps": 1, "max_held_out": 2},
        "log": {"tensorboard": False},
    })  # fmt: skip
    assert prepare(config).made == {"latents": 12, "tokens": 12}
    worker.train(config)
    assert (
        sum("loss" in row and np.isfinite(row["loss"]) for row in read_metrics(config.output)) == 2
    )
