"""Kill `prepare` at random moments: after the same command was run again, nothing is there twice,
nothing is missing, and every bit equals an undisturbed run.

Each kill has a dataset folder of its own; images, model and cluster are shared. The images have
three shapes and include broken files, exact duplicates and one that the VAE answers with NaN.
Every other moment is drawn evenly over the time that an undisturbed run takes from its first to
its last file, the rest evenly over the arrays it encodes.

What is counted:

- duplicates: rows of the final snapshot with the same image and bucket as another, and content
  addresses that its rows find in more than one place;
- missing: rows of the undisturbed snapshot that it lacks;
- equal: the snapshots' fingerprints, and the bytes of every array of every row;
- lost work: images and captions that went through an encoder more often than in the undisturbed
  run, counted by the encoders themselves (killed ones too) over both runs, in units of full
  shards. What was done and not yet saved is lost, summed over all the actors that died at once.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import tomli_w
from PIL import Image

from raytrain import plugins
from raytrain.data.loading.read import open_manifest
from raytrain.data.pipeline import plan_encoding
from raytrain.toy import SD15
from raytrain.toy.draw import TRAINING_SIZES, draw
from tests.soak import _counting, _kills
from tests.soak._nodes import WORKERS, Nodes, local_nodes

IMAGES = 2000
SHARD_ROWS = 64
SHOWN = ("number", "kind", "victim", "moment", "exit_code", "seconds", "again_seconds",
         "arrays_before", "shards_lost", "duplicates", "missing",
         "equal_to_undisturbed")  # fmt: skip
Strike = tuple[str, Callable[[float], bool], random.Random]


@dataclass(frozen=True)
class Kill:
    """What one kill did; `shards_lost` and the last three are measured after the command was run
    again."""

    number: int
    kind: str
    victim: str
    moment: float
    """Seconds after the stage had begun."""
    exit_code: int
    """Of the command that was disturbed."""
    finished_by_itself: bool
    seconds: float
    again_exit_code: int
    again_seconds: float
    arrays_before: int
    """Arrays on storage when the disturbed command had ended."""
    arrays_after: int
    encoded_again: int
    shards_lost: float
    duplicates: int
    missing: int
    equal_to_undisturbed: bool


@dataclass(frozen=True)
class State:
    """What a dataset's newest snapshot says."""

    fingerprint: str
    rows: list[bytes]
    """Row keys."""
    digest: str
    """Over every row and the bytes of all its arrays."""
    duplicates: int


def soak(folder: Path, kills: int, size: int, seed: int, say: Callable[[str], None]) -> list[Kill]:
    """Prepare `size` images undisturbed, then kill as many preparations as asked;
    return what each came to."""
    chance = random.Random(seed)
    draw_images(folder / "images", size, seed)
    os.environ[_counting.COUNTS] = str(folder / "counts")
    Path(os.environ[_counting.COUNTS]).touch()
    with local_nodes() as nodes:
        bench = _Bench(folder, nodes)
        calm = bench.run(bench.config("undisturbed"))
        if calm.exit_code:
            raise RuntimeError(
                f"the undisturbed run ended with {calm.exit_code}:\n{bench.log.read_text()}"
            )
        bench.span = calm.seconds - calm.begun
        expected, needed = state(folder / "undisturbed"), bench.encoded()
        say(
            f"undisturbed: {len(expected.rows)} rows, {needed} arrays, {calm.begun:.1f} + "
            f"{bench.span:.1f} s"
        )
        found = []
        for number, kind in enumerate(_kills.kinds(kills, chance), 1):
            found.append(bench.kill(number, kind, chance, expected, needed))
            say(_line(found[-1]))
    return found


def summary(kills: Sequence[Kill]) -> dict[str, object]:
    """Return what was promised, over all kills."""
    return {
        "duplicates": sum(kill.duplicates for kill in kills),
        "missing": sum(kill.missing for kill in kills),
        "equal_to_undisturbed": all(kill.equal_to_undisturbed for kill in kills),
        "max_shards_lost": max(kill.shards_lost for kill in kills),
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every kill ended as it must."""
    return all(
        kill.again_exit_code == 0
        and kill.equal_to_undisturbed
        and not kill.duplicates
        and not kill.missing
        and kill.shards_lost <= 1
        for kill in kills
    )


class _Bench:
    """Configs, runs and counts of one soak."""

    def __init__(self, folder: Path, nodes: Nodes) -> None:
        self.folder, self.nodes = folder, nodes
        self.log = folder / "output.log"
        self.seen = 0
        self.moment = 0.0
        """Seconds after its begin at which the latest run was last asked about, or struck."""
        self.span = 0.0
        """Seconds of the latest run that was not disturbed, from its first file to its end."""

    def config(self, name: str) -> Path:
        """Write the config of a dataset folder of that name; return its file."""
        tables = {
            "output": str(self.folder / name / "run"),
            "model": {"family": _counting.__name__, "path": str(SD15)},
            "cluster": {"address": self.nodes.address},
            "data": {
                "source": str(self.folder / "images"),
                "dataset": str(self.folder / name),
                "allow_rejected": True,
                "buckets": {
                    "resolution": 64,
                    "step": 16,
                    "sizes": [list(size) for size in TRAINING_SIZES.values()],
                },
                "encode": {"workers": WORKERS, "shard_rows": SHARD_ROWS, "group_rows": 16},
            },
        }
        file = self.folder / f"{name}.toml"
        file.write_text(tomli_w.dumps(tables))
        return file

    def run(self, config: Path, strike: Strike | None = None) -> _kills.Run:
        """Run the config's preparation to its end."""
        work = config.with_suffix("") / "work"
        earlier = set(os.listdir(work)) if work.exists() else set()
        command = ["jobs.prepare", str(config)]
        return _kills.run(
            command,
            self.log,
            lambda: work.exists() and set(os.listdir(work)) > earlier,
            self.nodes,
            strike,
        )

    def encoded(self) -> int:
        """Return the arrays that encoders made since this was last asked."""
        total = self._counted()
        self.seen, new = total, total - self.seen
        return new

    def _moment(self, number: int, chance: random.Random, needed: int) -> Callable[[float], bool]:
        """Return when to strike: every other kill after a share of the time,
        the rest after a share of the encoding."""
        if number % 2:
            seconds = chance.uniform(0, self.span)
            due = lambda since: since >= seconds  # noqa: E731
        else:
            arrays, before = chance.uniform(0, needed), self.seen
            due = lambda since: self._counted() - before >= arrays  # noqa: E731

        def strike(since: float) -> bool:
            self.moment = since
            return bool(due(since))

        return strike

    def _counted(self) -> int:
        return sum(
            int(line.split()[1])
            for line in (self.folder / "counts").read_text().splitlines()
            if " " in line
        )

    def kill(
        self, number: int, kind: str, chance: random.Random, expected: State, needed: int
    ) -> Kill:
        """Disturb one preparation, run it again, compare."""
        struck = None
        while (
            struck is None or struck.victim is None
        ):  # a run that ended before its moment came is no kill
            name = f"kill-{number}"
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.encoded()
            config = self.config(name)
            struck = self.run(config, (kind, self._moment(number, chance, needed), chance))
            if struck.victim is None:
                self.span = struck.seconds - struck.begun  # the machine has become faster
        before = len(stored(self.folder / name))
        again = self.run(config)
        extra = self.encoded() - needed
        if again.exit_code:
            say = self.log.read_text().splitlines()[-40:]
            raise RuntimeError(
                "\n".join(
                    [
                        f"run again after a kill of {struck.victim}, it ended with "
                        f"{again.exit_code}:",
                        *say,
                    ]
                )
            )
        last = state(self.folder / name)
        return Kill(
            number=number,
            kind=kind,
            victim=struck.victim,
            moment=round(self.moment, 2),
            exit_code=struck.exit_code,
            finished_by_itself=struck.exit_code == 0,
            seconds=round(struck.seconds, 1),
            again_exit_code=again.exit_code,
            again_seconds=round(again.seconds, 1),
            arrays_before=before,
            arrays_after=len(stored(self.folder / name)),
            encoded_again=extra,
            shards_lost=round(extra / SHARD_ROWS, 3),
            duplicates=last.duplicates,
            missing=len(set(expected.rows) - set(last.rows)),
            equal_to_undisturbed=(last.fingerprint, last.digest)
            == (expected.fingerprint, expected.digest),
        )


def draw_images(folder: Path, size: int, seed: int) -> None:
    """Fill a folder with captioned images of three shapes; of every 50 one is a duplicate and one
    broken, one is magenta."""
    folder.mkdir(parents=True)
    shapes = list(TRAINING_SIZES.values())
    for number in range(size):
        image, caption = draw(f"{seed}/{number}", "striped", shapes[number % len(shapes)])
        file = folder / f"{number:05}.png"
        if number % 50 == 7:
            shutil.copy(folder / f"{number - 1:05}.png", file)
        else:
            image.save(file)
        file.with_suffix(".txt").write_text(f"{caption}, image {number}")
        if number % 50 == 21:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    Image.new("RGB", shapes[0], (255, 0, 255)).save(folder / "magenta.png")


def stored(dataset: Path) -> list[bytes]:
    """Return the content address of every array in a whole shard on storage."""
    paths = [
        dataset / path
        for name in plugins.names("data.columns")
        for path in plan_encoding.shards_of(str(dataset), name)
    ]
    return [
        key
        for path in paths
        for key in pq.read_table(path, columns=["key"], partitioning=None)["key"].to_pylist()
    ]


def state(dataset: Path) -> State:
    """Read the newest snapshot through plain parquet, every array included."""
    manifest = open_manifest(str(dataset))
    shards = {
        (store, number): pq.read_table(dataset / path, partitioning=None).to_pylist()
        for store, paths in manifest.shards.items()
        for number, path in enumerate(paths)
    }
    rows = []
    for part in manifest.parts:
        rows += [
            (part.bucket, row)
            for row in pq.read_table(dataset / part.path, partitioning=None).to_pylist()
        ]
    digest, places = hashlib.sha256(), set()
    for bucket, row in sorted(rows, key=lambda pair: (pair[0], pair[1]["id"])):
        digest.update(
            repr((bucket, row["row_key"], row["split"], row["captions"], row["repeats"])).encode()
        )
        for store in manifest.columns:
            for place in row[store]:
                columns = shards[store, place["shard"]][place["row"]]
                places.add((columns["key"], store, place["shard"], place["row"]))
                digest.update(b"".join(columns[name] for name in sorted(columns)))
    twice = len(rows) - len({(bucket, row["id"]) for bucket, row in rows})
    return State(
        fingerprint=manifest.fingerprint,
        rows=[row["row_key"] for _, row in rows],
        digest=digest.hexdigest(),
        duplicates=twice + len(places) - len({key for key, *_ in places}),
    )


def _line(kill: Kill) -> str:
    found = (
        f"kill {kill.number}: {kill.kind} ({kill.victim}) after {kill.moment:.1f} s, exit "
        f"{kill.exit_code}",
        "equal" if kill.equal_to_undisturbed else "DIFFERS",
        f"{kill.duplicates} duplicates",
        f"{kill.missing} missing",
        f"{kill.encoded_again} encoded again = {kill.shards_lost:.2f} shards",
    )
    return ", ".join(found)
