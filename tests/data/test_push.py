"""A published dataset is sent to the hub by its own client, over HTTP to one on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from jobs import data
from raytrain.config import Config
from raytrain.data.prepare import prepare
from tests.data.conftest import draw
from tests.data.hub_server import Hub, hub

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub("right") as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "right")
        yield served


@pytest.fixture
def dataset(tmp_path: Path, make_config: Callable[..., Config]) -> str:
    for number in range(3):
        draw(tmp_path / "images" / f"{number}.png", number, (32, 32), f"image {number}")
    config = make_config(held_out=0.0)
    prepare(config)
    return config.dataset


def local(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".raytrain-publish.json"
    }


def test_what_is_on_the_hub_is_what_is_published(
    server: Hub, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert data.main(["publish", dataset, str(out), "--push", "me/cats", "--private"]) == 0
    assert f"Sent to {server.url}/datasets/me/cats" in capsys.readouterr().out
    assert server.repositories["me/cats"]["visibility"] == "private"
    assert server.files["me/cats"] == local(out)
    assert sum(path.endswith(".png") for path in server.files["me/cats"]) == 3
    assert (
        data.main(["publish", dataset, str(out), "--format", "parquet", "--push", "me/cats"]) == 0
    )
    assert server.files["me/cats"] == local(out), "what is no longer published is deleted"
    assert not any(path.endswith(".png") for path in server.files["me/cats"])


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("wrong", "me/cats", "does not know the one of HF_TOKEN"),
        ("right", "you/cats", "does not let write there"),
        ("right", "cats", "<user or organization>/<name>, got 'cats'"),
        ("right", "me/a b", "a name that the hub takes, got 'me/a b'"),
    ],
)
def test_what_the_hub_refuses_is_told_in_words(
    server: Hub, dataset: str, tmp_path: Path, token: str, repo: str, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    out = tmp_path / "out"
    assert data.main(["publish", dataset, str(out), "--push", repo]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert out.exists() == (repo == "you/cats"), "only the hub knows who may write where"


def test_a_missing_token_or_hub_is_told_before_anything_is_written(
    server: Hub, dataset: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ["publish", dataset, str(tmp_path / "out"), "--push", "me/cats"]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "none"))
    assert data.main(command) == 2
    assert "there is none. Set HF_TOKEN" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("HF_TOKEN", "right")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert data.main(command) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert data.main(["publish", dataset, str(tmp_path / "out"), "--private"]) == 2
    assert not (tmp_path / "out").exists()
