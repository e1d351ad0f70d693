"""Other trainers' configurations become ours, and each of their keys is accounted for."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raytrain import families, importers, plugins
from raytrain.config import Config, keys
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.export import run as export
from raytrain.importers import Asked, Document, Said
from raytrain.importers._rules import To
from raytrain.plan import plan
from raytrain.toy.draw import draw_folder
from raytrain.train import cost
from raytrain.train.guards import beforehand
from raytrain.translate import KINDS, read_files, translate, write
from tests.importers.cases import CASES, TRAINERS, files, translated, written

PAIRS = re.compile(r"(?<=optimizer_args)\..*|(?<=network_args)\..*")
VALUES = ("text", "true", "1024x768", "1e-4", "a=b", "", None, [], {}, [1, 2, 3], ["a"], [{}], -1,
          0, 1, 0.5, True, False)  # fmt: skip


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_has_two_examples(trainer: str) -> None:
    assert len([case for case in CASES if case.startswith(f"{trainer}/")]) >= 2


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_a_configuration_is_in_the_report_once(case: str) -> None:
    made = translated(case)
    assert made.trainer == case.partition("/")[0]
    given = Counter(entry.key for entry in made.entries if entry.given)
    assert set(given.values()) == {1}
    assert {entry.kind for entry in made.entries} <= set(KINDS)
    unknown = [entry.key for entry in made.entries if entry.kind == "unknown"]
    assert not unknown, "an example's keys are all known"
    # read by another reader, each name is there as often; a command's flags and pairs once
    names = Counter(PAIRS.sub("", key).rpartition(".")[2] for key in given)
    wanted = Counter(written(case))
    if any(file.suffix == ".sh" for file in files(case)):
        whole = " ".join(given)
        assert all(names[name] or f"{name}." in whole for name in wanted), wanted - names
    else:
        assert names == wanted


@pytest.mark.parametrize("case", CASES)
def test_what_is_without_an_equal_says_why(case: str) -> None:
    for entry in translated(case).entries:
        assert entry.kind != "without an equal" or len(entry.words) > 5, entry
        assert entry.kind != "different by default" or entry.settings, entry


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return a folder of weights for each family: the toy's, or tiny ones."""
    found = {}
    for name in ("sd15", "sdxl", "sd3"):
        folder = tmp_path_factory.mktemp(name)
        families.load(name).tiny(str(folder))
        found[name] = str(folder)
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three images with captions."""
    return draw_folder(tmp_path_factory.mktemp("images"), 3)


@pytest.fixture
def at_hand(case: str, models: dict[str, str], images: Path, tmp_path: Path) -> Config:
    """Return what a case became, read from its file, with the model and the images at hand."""
    made, path = translated(case), tmp_path / "my.toml"
    write(made, case, path)
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    model, folder = models[tree["model"]["family"]], str(images)
    local = {"output": str(tmp_path / "run"), "model.path": model}
    local |= {"model.vae": model} if "vae" in tree["model"] else {}
    # small images are planned quickly; the sizes themselves are checked with the file
    parse({**tree, "model": {**tree["model"], "path": model}})
    tree["data"]["buckets"] = {"resolution": 64, "step": 32}
    if "subsets" in tree["data"]:
        tree["data"]["subsets"] = [{"source": folder}]
    else:
        tree["data"] |= {"source": folder, "format": "auto"}
    sample = tree.get("sample", {})
    if "prompt_file" in sample:
        (tmp_path / "prompts.txt").write_text("a star --w 64 --h 64\n")
        local["sample.prompt_file"] = str(tmp_path / "prompts.txt")
    if "controls" in sample:
        sample["controls"] = [str(images / "0001.png")] * len(sample["prompts"])
    for key, value in local.items():
        keys.put(tree, key, value)
    return parse(tree)


@pytest.mark.parametrize("case", CASES)
def test_the_model_that_the_config_asks_for_can_be_built(at_hand: Config) -> None:
    beforehand.check(at_hand)
    model = cost.skeleton(at_hand)
    export.check(at_hand, model)
    assert cost.weights(at_hand, model).trainable > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_plan_takes_the_config(at_hand: Config) -> None:
    assert plan(at_hand).trainable_parameters > 0


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_a_table_writes_are_keys_of_ours(trainer: str) -> None:
    importer = importers.load(trainer)
    named = [rule.key for rule in importer.RULES.values() if isinstance(rule, To)]
    trees = [{"method": {"name": name}} for name in plugins.names("methods")]
    for key in (*named, *importer.ASSUMED):
        assert any(_is_key(key, tree) for tree in trees), key


def _is_key(key: str, tree: dict[str, Any]) -> bool:
    try:
        keys.default(key, tree)
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("trainer", TRAINERS)
def test_any_value_of_a_key_is_translated_or_told(trainer: str) -> None:
    importer = importers.load(trainer)
    for pattern, rule in importer.RULES.items():
        key = pattern.replace("[]", "[0]").replace("*", "x")
        for value in VALUES:
            asked = Asked(key, {key: value}, importer.defaults({key: value}))
            with suppress(ValueError, UserError):  # both are told as having no equal
                assert isinstance(rule(value, asked), Said)


def test_an_unknown_key_is_told_with_its_neighbor(tmp_path: Path) -> None:
    line = "accelerate launch sdxl_train_network.py --learning_rte=1 --output_dir=x"
    made = translate([Document("train.sh", line)])
    (entry,) = [each for each in made.entries if each.kind == "unknown"]
    assert entry.key == "learning_rte"
    assert "'learning_rate'" in entry.words
    write(made, "train.sh", tmp_path / "my.toml")
    assert "# " + "  learning_rte = 1: unknown" in (tmp_path / "my.toml").read_text()


def test_two_keys_that_disagree_are_told() -> None:
    line = "accelerate launch train_network.py --min_timestep=0 --save_last_n_epochs=2"
    made = translate([Document("train.sh", f"{line} --save_last_n_steps=3")])
    entries = {entry.key: entry for entry in made.entries}
    assert entries["save_last_n_epochs"].settings == {"train.keep_checkpoints": 2}
    assert entries["save_last_n_steps"].kind == "without an equal"
    assert "save_last_n_epochs" in entries["save_last_n_steps"].words
    assert made.tree["train"]["keep_checkpoints"] == 2


def test_the_family_is_asked_for_where_files_do_not_tell() -> None:
    text = 'pretrained_model_name_or_path = "models/any"\noutput_dir = "runs"'
    config = [Document("config.toml", text)]
    with pytest.raises(UserError, match="--family: sd15"):
        translate(config)
    made = translate(config, settings={"model.family": "sdxl"})
    assert parse(made.tree).model.family == "sdxl"


def test_files_of_no_trainer_and_of_two_are_refused() -> None:
    with pytest.raises(UserError, match="none of ai_toolkit"):
        translate([Document("a.json", '{"a": 1}')])
    other = Document("b.json", '{"lora_training_urls": "x", "concept_mode": "face"}')
    with pytest.raises(UserError, match="diffusers and eden"):
        translate([Document("a.sh", "python textual_inversion.py"), other])
    with pytest.raises(UserError, match="Did you mean 'kohya'"):
        translate([Document("a.sh", "python train_network.py")], "koya")


def test_what_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a text file"):
        read_files([tmp_path / "nothing.json"])
    with pytest.raises(UserError, match="must be readable JSON"):
        translate([Document("a.json", "{")])
    with pytest.raises(UserError, match="no command line: No closing quotation"):
        translate([Document("a.sh", 'python train_network.py --a="b')])
    with pytest.raises(UserError, match="one training script"):
        translate([Document("a.sh", "python sdxl_train.py\npython train_db.py")])


def test_a_config_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("mine")
    with pytest.raises(UserError, match="File exists"):
        write(translated(CASES[0]), "files", path)
    assert path.read_text() == "mine"
