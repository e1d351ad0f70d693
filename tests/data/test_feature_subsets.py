"""Several sources in one dataset: repeats, weights, regularization, captions of their own;
exact epochs through the loader."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytrain import rng
from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Batch, Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.objective import Objective
from tests.data.conftest import SIZES, draw
from tests.data.contents import contents, manifest

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def fill(folder: Path, count: int, seed: int, caption: str = "") -> str:
    for number in range(count):
        draw(
            folder / f"{folder.name} {number}.png",
            seed + number,
            SIZES[number % 3],
            f"{caption} {number}" if caption else None,
        )
    return str(folder)


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def batches(
    config: Config, epochs: int, size: int, world_size: int = 1, repeats: int = 1
) -> Iterator[tuple[str, Batch]]:
    """Yield every batch of every worker of a run, and its bucket."""
    dataset = Dataset(config.dataset)
    batch_sampler = BatchSampler(
        dataset.counts(), batch=size, seed=3, epochs=epochs, repeats=repeats
    )
    for rank in range(world_size):
        loader = Loader(dataset, batch_sampler, rank=rank, world_size=world_size)
        for number in range(batch_sampler.total_steps):
            step = loader.step(number)
            yield step.bucket, step.batch


@pytest.fixture
def mixed(tmp_path: Path, make_config: Make) -> Config:
    """Five images shown three times an epoch, and two of the class in general that count half."""
    own = {"source": fill(tmp_path / "own", 5, 0, "own"), "repeats": 3, "prefix": "photo of"}
    general = {
        "source": fill(tmp_path / "general", 2, 50, "TOK thing"),
        "regularization": True,
        "weight": 0.5,
        "suffix": "outside",
    }
    config = make_config(
        source="", subsets=[own, general], held_out=0.0, captions={"trigger": "zwx"}
    )
    prepare(config)
    return config


def test_captions_of_a_subset(mixed: Config) -> None:
    captions = sorted(caption for row in rows(mixed).values() for caption in row["captions"])
    assert captions == ["thing 0 outside", "thing 1 outside"] + [
        f"zwx, photo of own {number}" for number in range(5)
    ]


def test_a_subset_of_which_nothing_is_left_is_told(tmp_path: Path, make_config: Make) -> None:
    own = fill(tmp_path / "own", 2, 0)
    again = {"source": own, "regularization": True}
    report = prepare(make_config(source="", subsets=[{"source": own}, again], held_out=0.0))
    assert not any("nothing is held out" in note for note in report.notes)
    assert report.notes[0] == (
        f"no image of the subset {own!r} is left: its 2 were left out, most by rule 'duplicate'; "
        "what the subset sets has no effect"
    )


def test_regularization_images_alone_hold_nothing_out(tmp_path: Path, make_config: Make) -> None:
    general = {"source": fill(tmp_path / "general", 3, 0), "regularization": True}
    [told] = prepare(make_config(source="", subsets=[general], held_out=0.5)).notes
    assert "(data.held_out = 0.5): regularization images never are" in told


def test_concepts_have_their_own_trigger_and_are_shown_alike_often(
    tmp_path: Path, make_config: Make
) -> None:
    concepts = [
        {"source": fill(tmp_path / "cat", 2, 0, "a TOK"), "trigger": "zwx"},
        {"source": fill(tmp_path / "dog", 3, 20, "a dog"), "trigger": "qvy"},
        {"source": fill(tmp_path / "style", 2, 40, "TOK"), "repeats": 2},
    ]
    general = {"source": fill(tmp_path / "general", 1, 60, "TOK"), "regularization": True}
    config = make_config(
        source="",
        subsets=[*concepts, general],
        held_out=0.0,
        balance="lcm",
        captions={"trigger": "all"},
    )
    prepare(config)
    found = {path.split()[0]: row for path, row in rows(config).items()}
    repeats = Counter(
        {name: row["repeats"] for name, row in found.items()}
    )  # 2, 3 and 2 x 2 rows an epoch: 12 of each
    assert repeats == {"cat": 6, "dog": 4, "style": 6, "general": 36}
    captions = {path: row["captions"][0] for path, row in rows(config).items()}
    assert captions["cat 0.png"] == "a zwx 0"
    assert captions["dog 0.png"] == "qvy, a dog 0"
    assert captions["style 0.png"] == "all 0"
    assert config.data.triggers() == ("zwx", "qvy", "all")


def test_one_subset_has_nothing_to_be_balanced_against(make_config: Make) -> None:
    with pytest.raises(UserError, match="needs several"):
        make_config(balance="lcm")
    with pytest.raises(UserError, match="no effect on a regularization subset"):
        make_config(source="", subsets=[{"source": "a", "trigger": "x", "regularization": True}])


def test_regularization_is_balanced_and_weighs_what_its_subset_says(mixed: Config) -> None:
    found = rows(mixed)
    repeats: dict[bool, list[int]] = defaultdict(list)
    for row in found.values():
        repeats[row["regularization"]].append(row["repeats"])
    assert repeats[False] == [3] * 5
    assert sorted(repeats[True]) == [7, 8], "15 of the others, so 15 of these"
    entries = {
        name: sum(row["repeats"] for (_, bucket), row in contents(mixed).items() if bucket == name)
        for name in manifest(mixed).buckets
    }
    assert Dataset(mixed.dataset).counts() == entries
    assert {name: count.entries for name, count in manifest(mixed).buckets.items()} == entries
    weights = {row["id"].hex(): 0.5 if row["regularization"] else 1.0 for row in found.values()}
    shown: Counter[str] = Counter()
    for _, batch in batches(mixed, epochs=1, size=4):
        for identity, weight in zip(batch.ids, batch.weights.tolist(), strict=True):
            assert weight in (0.0, weights[identity]), "0 for the padding of a short batch"
            shown[identity] += weight > 0
    assert shown == {row["id"].hex(): row["repeats"] for row in found.values()}


def test_regularization_that_is_shown_enough_is_left_alone_and_never_held_out(
    tmp_path: Path, make_config: Make
) -> None:
    own = {"source": fill(tmp_path / "own", 3, 0), "repeats": 1}
    general = {"source": fill(tmp_path / "general", 6, 50), "regularization": True, "repeats": 2}
    config = make_config(source="", subsets=[own, general], held_out=0.9)
    prepare(config)
    found = rows(config)
    assert {row["repeats"] for row in found.values() if row["regularization"]} == {2}
    assert {row["split"] for row in found.values() if row["regularization"]} == {"train"}
    assert {row["split"] for row in found.values() if not row["regularization"]} == {
        "train",
        "held_out",
    }


def test_a_kohya_folder_says_its_repeats_and_captions(tmp_path: Path, make_config: Make) -> None:
    fill(tmp_path / "k" / "3_sks dog", 2, 0)
    fill(tmp_path / "k" / "1_cat", 2, 20, "a cat")
    config = make_config(source=str(tmp_path / "k"), format="auto", held_out=0.0)
    prepare(config)
    said = sorted((row["repeats"], row["captions"][0]) for row in rows(config).values())
    assert said == [(1, "a cat 0"), (1, "a cat 1"), (3, "sks dog"), (3, "sks dog")]


@pytest.fixture
def repeated(tmp_path: Path, make_config: Make) -> Config:
    """Images of three shapes that an epoch shows once, twice and three times."""
    subsets = [
        {"source": fill(tmp_path / f"x{times}", 4, 10 * times), "repeats": times}
        for times in (1, 2, 3)
    ]
    config = make_config(source="", subsets=subsets, held_out=0.0)
    prepare(config)
    return config


@pytest.mark.parametrize("repeats", [1, 2])
def test_epochs_are_exact_on_any_number_of_workers_and_no_occurrence_has_the_noise_of_another(
    repeated: Config, repeats: int
) -> None:
    epochs = 2
    wanted = {
        (row["id"].hex(), occurrence): 1
        for row in rows(repeated).values()
        for occurrence in range(row["repeats"] * repeats * epochs)
    }
    objective = Objective.of(repeated, torch.device("cpu"))
    drawn: list[dict[tuple[str, int], np.ndarray]] = []
    for world_size in (1, 2, 3):
        seen: Counter[tuple[str, int]] = Counter()
        noise: dict[tuple[str, int], np.ndarray] = {}
        for _, batch in batches(repeated, epochs, 6, world_size, repeats):
            draws = rng.draw(objective.draws(batch), objective.seed, batch)
            for place, key in enumerate(zip(batch.ids, batch.occurrences, strict=True)):
                if batch.weights[place] > 0:
                    seen[key] += 1
                    noise[key] = draws["noise"][place].numpy()
        assert seen == wanted
        drawn.append(noise)
    for other in drawn[1:]:
        assert all(np.array_equal(other[key], values) for key, values in drawn[0].items())
    assert len({values.tobytes() for values in drawn[0].values()}) == len(wanted)
    assert all(torch.isfinite(torch.from_numpy(values)).all() for values in drawn[0].values())
