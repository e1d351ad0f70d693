"""Whatever a method learns, each format that takes it gives other programs the weights of the live
model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from raytrain import plugins
from raytrain.artifacts import Artifact, Embeddings, Update
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle, Written
from raytrain.export.formats import a1111, diffusers, kohya
from raytrain.export.run import formats, told, write
from tests import batches
from tests.cases import CASES, IDS, Case, built
from tests.export import readers
from tests.export.conftest import Tuned, base_pipeline, loud
from tests.export.readers import READERS

Folder = Callable[[str], Path]
Tune = Callable[..., Tuned]


def tuned_case(case: Case, folder: Folder) -> Tuned:
    config, model = built(case, folder)
    model.load(loud(model.state(), 0.3))
    return Tuned(config, model, {name: tensor.clone() for name, tensor in model.state().items()})


def expected(tuned: Tuned, bundle: Bundle) -> dict[str, Tensor]:
    """Return what readers must find: merged weights, what a part learned,
    vectors by encoder and word."""
    if bundle.of(Update):
        return tuned.effective()
    words = {
        f"{made.part} {word}": found
        for made in bundle.of(Embeddings)
        for word, found in made.vectors.items()
    }
    return words or tuned.weights


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_files_hold_the_live_models_weights(case: Case, folder: Folder, tmp_path: Path) -> None:
    tuned = tuned_case(case, folder)
    bundle = tuned.bundle()
    wanted = expected(tuned, bundle)
    chosen = formats(bundle.config, bundle.artifacts)
    assert chosen
    for name in chosen:
        written = plugins.load("export.formats", name).write(bundle, str(tmp_path / name))
        found = READERS[name](written, bundle.config)
        assert (
            wanted.keys() <= found.keys() if name == "diffusers" else wanted.keys() == found.keys()
        )
        for key, tensor in wanted.items():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}"
            )
        for each in written:
            assert Path(each.path).exists()
            assert each.how_to_load


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_merged_weights_predict_what_adapters_do(case: Case, folder: Folder) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = tuned_case(case, folder)
    batch = batches.make(tuned.config)
    draws = tuned.model.draw(batch)
    with torch.no_grad():
        apart = tuned.model(batch, draws)
        for layer in tuned.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
        torch.testing.assert_close(tuned.model(batch, draws), apart, rtol=1e-4, atol=1e-5)


def of_every_type() -> list[Artifact]:
    """Return what all methods in all their settings learn, one of each type."""
    found: dict[type, Artifact] = {}
    for subclass in subclasses(Artifact):
        if not subclasses(subclass):
            found[subclass] = object.__new__(subclass)
    return list(found.values())


def subclasses(kind: type) -> list[type]:
    return [each for child in kind.__subclasses__() for each in (child, *subclasses(child))]


@pytest.mark.parametrize("name", plugins.names("export.formats"))
def test_a_format_that_takes_nothing_of_it_is_refused_with_those_that_do(
    name: str, tune: Tune
) -> None:
    takes = plugins.load("export.formats", name).TAKES
    config = (
        tune("sd15").bundle(export={"formats": [name]}).config
        if name != "a1111"
        else asked(tune, name)
    )
    for artifact in of_every_type():
        if isinstance(artifact, takes):
            assert formats(config, [artifact]) == [name]
        else:
            with pytest.raises(UserError, match=r"export\.formats") as caught:
                formats(config, [artifact])
            able = formats(asked(tune, "auto"), [artifact])
            assert able
            assert all(each in str(caught.value) for each in able)


def asked(tune: Tune, name: str) -> Any:
    """Return a config that asks for one format, or `auto`."""
    config = tune("sd15").config
    wanted = name if name == "auto" else (name,)
    return config.model_copy(
        update={"export": config.export.model_copy(update={"formats": wanted})}
    )


def test_what_no_chosen_format_holds_is_not_lost_in_silence(tune: Tune) -> None:
    low, words = (
        made for made in of_every_type() if type(made).__name__ in ("LowRank", "Embeddings")
    )
    with pytest.raises(UserError, match="would be lost"):
        formats(asked(tune, "kohya"), [low, words])
    assert formats(asked(tune, "auto"), [low, words]) == ["a1111", "diffusers", "kohya"]


def test_another_reader_of_diffusers_lora_applies_the_same_strength(
    tune: Tune, tmp_path: Path
) -> None:
    """Alpha is not the rank: metadata or none, and ComfyUI, which reads no alpha where no key has
    one."""
    tuned = tune(
        "sd15", rank=4, alpha=2.0, conv_rank=2, conv_alpha=6.0, text_rank=3, text_alpha=1.0
    )
    (one,) = diffusers.write(tuned.bundle(), str(tmp_path))
    file, wanted = load_file(one.path), tuned.effective()
    pipe = base_pipeline(tuned.config)
    pipe.load_lora_weights(dict(file))
    without_metadata = readers.fused(pipe)
    assert without_metadata.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(without_metadata[key], tensor, rtol=1e-5, atol=1e-5)
    assert not any("alpha" in key for key in file)
    for key, tensor in wanted.items():
        part, layer = key.removesuffix(".weight").split(".", 1)
        name = f"{part}.text_model.{layer}" if part == "text_encoder" else f"{part}.{layer}"
        update = file[f"{name}.lora_B.weight"].flatten(1) @ file[f"{name}.lora_A.weight"].flatten(
            1
        )
        base = tuned.model.parts[part].get_submodule(layer).get_base_layer().weight  # type: ignore[operator]
        torch.testing.assert_close(base + update.reshape(base.shape), tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "loha", "lokr"])
def test_comfyui_applies_the_strength_of_kohyas_file(
    name: str, tune: Tune, tmp_path: Path
) -> None:
    tuned = tune("sd15", loudness=0.3, name=name, rank=2, alpha=1.0, conv_rank=1, conv_alpha=3.0)
    bundle = tuned.bundle()
    found = readers.by_comfyui(kohya.write(bundle, str(tmp_path)), bundle.config)
    for key, tensor in tuned.effective().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_lycoris_which_scales_twice_where_it_merges_has_a_scale_of_1(
    name: str, tune: Tune, tmp_path: Path
) -> None:
    tuned = tune("sd15", loudness=0.3, name=name, rank=2, alpha=1.0, conv_rank=1, conv_alpha=3.0)
    (one,) = kohya.write(tuned.bundle(), str(tmp_path))
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(one.path).items():
        layer, _, rest = key.partition(".")
        layers.setdefault(layer, {})[rest] = tensor
    assert all(readers.alpha_over_rank(tensors) == 1 for tensors in layers.values())


def test_a_doras_file_says_who_reads_it(tune: Tune, tmp_path: Path) -> None:
    tuned = tune("sd15", rank=4, alpha=2.0, dora=True)
    (one,) = kohya.write(tuned.bundle(), str(tmp_path))
    assert "DoRA" in one.how_to_load[1]
    with safe_open(one.path, "pt") as file:
        assert file.metadata()["ss_network_module"] == "lycoris.kohya"
        assert json.loads(file.metadata()["ss_network_args"]) == {
            "algo": "locon",
            "dora_wd": "True",
        }


def test_words_of_one_and_of_two_encoders(tune: Tune, tmp_path: Path) -> None:
    for family, widths in (("sd15", {"emb_params": 32}), ("sdxl", {"clip_l": 32, "clip_g": 48})):
        tuned = tune(family)
        parts = ("text_encoder", "text_encoder_2")
        vectors = {
            part: torch.randn(2, width)
            for part, width in zip(parts, widths.values(), strict=False)
        }
        made = [Embeddings(part, {"<cat>": found}) for part, found in vectors.items()]
        bundle = Bundle(
            "run", tuned.config, tuned.bundle().family, made, 7, None, {"raytrain.step": "7"}
        )
        (one,) = a1111.write(bundle, str(tmp_path / family))
        assert Path(one.path).name == "cat.safetensors"
        assert {key: tensor.shape[1] for key, tensor in load_file(one.path).items()} == widths
        pipe = base_pipeline(tuned.config)
        for each in diffusers.write(bundle, str(tmp_path / family)):
            load_as_told(pipe, each.how_to_load[1:])
        ids = pipe.tokenizer.convert_tokens_to_ids(["<cat>", "<cat>_1"])
        rows = pipe.text_encoder.get_input_embeddings().weight[ids]
        assert torch.equal(rows, vectors["text_encoder"])


def load_as_told(pipe: Any, lines: tuple[str, ...]) -> None:
    import safetensors.torch

    for line in lines:
        exec(line, {"pipe": pipe, "safetensors": safetensors})


def test_all_formats_go_through_one_door(tune: Tune, tmp_path: Path) -> None:
    bundle = tune("sd15").bundle()
    assert [Path(each.path).name for each in write(bundle, str(tmp_path))] == [
        "pytorch_lora_weights.safetensors", "my-run.safetensors"
    ]  # fmt: skip
    assert isinstance(bundle.skeleton("text_encoder"), nn.Module)


def test_what_lies_on_a_store_is_to_be_copied_first() -> None:
    here, there = (Written(path, ("load it",)) for path in ("runs/a.safetensors", "s3://b/a"))
    assert told([here]) == "runs/a.safetensors\n    load it"
    assert told([there]).splitlines()[2].startswith("Copy what is loaded to a local folder first")
