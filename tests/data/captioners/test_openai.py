"""The captioner behind an endpoint, against a real HTTP server that fails before it answers."""

from __future__ import annotations

import base64
import io
import threading
import time
from typing import Any

import pytest
from PIL import Image

from raytrain.config.data import CaptionConfig
from raytrain.data.captioners import openai
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError
from tests.data.chat_server import Reply, Server, completion, serving


def config(server: Server | str, **options: Any) -> CaptionConfig:
    url = server if isinstance(server, str) else server.url
    options = {"base_url": url, "model": "eye", "backoff": 0.01, "timeout": 5.0, **options}
    return CaptionConfig(captioner="openai", max_new_tokens=60, options=options)


def shown(question: dict[str, Any]) -> Image.Image:
    text, image = question["messages"][0]["content"]
    assert text == {"type": "text", "text": openai.PROMPT}
    head, content = image["image_url"]["url"].split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def color(question: dict[str, Any]) -> str:
    """Say which of red, green and blue the image is, after a while that differs by image."""
    red, green, blue = shown(question).convert("RGB").getpixel((2, 2))  # type: ignore[misc]
    time.sleep(0.002 * (red // 100))
    return f"a {max((red, 'red'), (green, 'green'), (blue, 'blue'))[1]}\n image "


IMAGES = [
    Image.new("RGB", (8, 8), name) for name in ("red", "lime", "blue", "lime", "red", "blue")
]
SAID = [f"a {name} image" for name in ("red", "green", "blue", "green", "red", "blue")]


def test_captions_come_in_order_after_failures() -> None:
    failures: tuple[Reply, ...] = ((429, "slow down"), (500, "oops"), (503, "busy"))
    with serving(color, failures) as server:
        assert openai.load(config(server, concurrency=3)).caption(IMAGES) == SAID
        assert len(server.questions) == len(IMAGES) + 3
        assert server.most_at_once <= 3
        assert set(server.paths) == {"/v1/chat/completions"}
        assert {
            key: server.questions[0][key] for key in ("model", "temperature", "max_tokens", "seed")
        } == {
            "model": "eye",
            "temperature": 0.0,
            "max_tokens": 60,
            "seed": 0,
        }


def test_questions_are_asked_at_once() -> None:
    three = threading.Barrier(3)

    def slow(question: dict[str, Any]) -> str:
        three.wait(timeout=120)
        return "an image"

    with serving(slow) as server:
        openai.load(config(server, concurrency=6)).caption(IMAGES)
        assert server.most_at_once > 2


def test_what_is_sent_is_small_and_in_colors() -> None:
    with serving(lambda question: str(shown(question).size)) as server:
        captioner = openai.load(config(server, max_side=64, detail="low"))
        assert captioner.caption([Image.new("RGBA", (640, 320)), Image.new("L", (20, 30))]) == [
            "(64, 32)",
            "(20, 30)",
        ]
        assert server.questions[0]["messages"][0]["content"][1]["image_url"]["detail"] == "low"


def test_a_refused_image_is_this_image_s_fault_alone() -> None:
    def picky(question: dict[str, Any]) -> Any:
        said = color(question)
        return (400, {"error": {"message": "content policy"}}) if "green" in said else said

    class Torn(Image.Image):
        def convert(self, *arguments: Any, **settings: Any) -> Image.Image:
            raise OSError("image file is truncated")

    with serving(picky) as server:
        captions = openai.load(config(server)).caption([*IMAGES[:3], Torn()])
    assert [captions[0], captions[2]] == ["a red image", "a blue image"]
    assert isinstance(captions[1], BadImage)
    assert "content policy" in str(captions[1])
    assert isinstance(captions[3], BadImage)
    assert "truncated" in str(captions[3])


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_answer_is_no_caption(text: str | None) -> None:
    with serving(lambda question: (200, completion(text))) as server:
        [caption] = openai.load(config(server)).caption(IMAGES[:1])
    assert isinstance(caption, BadImage)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, "bad key"), "answers 401: bad key"),
        ((404, {"error": "no model eye"}), "no model eye"),
        ((200, "<html>hello</html>"), "does not answer as a chat endpoint does: <html>"),
        ((200, {"choices": []}), "does not answer as a chat endpoint does"),
        ((500, "down"), "answers 500: down, 3 times"),
    ],
)
def test_a_wrong_endpoint_is_one_message(reply: Reply, message: str) -> None:
    with serving(lambda question: reply) as server:
        with pytest.raises(UserError, match=message):
            openai.load(config(server, retries=2)).caption(IMAGES[:1])


def test_a_server_that_is_not_there_is_one_message() -> None:
    with serving(color) as server:
        url = server.url
    with pytest.raises(UserError, match=r"does not answer: .*, 2 times"):
        openai.load(config(url, retries=1)).caption(IMAGES[:1])


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a:port/v1"])
def test_an_address_that_is_none_is_one_message(url: str) -> None:
    with pytest.raises(UserError, match="base_url is no web address"):
        openai.load(config(url, retries=0)).caption(IMAGES[:1])


def test_a_server_that_hangs_is_given_up() -> None:
    given_up = threading.Event()

    def hanging(question: dict[str, Any]) -> str:
        given_up.wait()
        return "late"

    with serving(hanging) as server:
        with pytest.raises(UserError, match="timed out"):
            openai.load(config(server, retries=1, timeout=0.1)).caption(IMAGES[:1])
        given_up.set()


def test_the_server_s_wish_to_wait_is_granted() -> None:
    with serving(color, ((429, "slow down"),)) as server:
        server.retry_after = "1"
        began = time.monotonic()
        assert openai.load(config(server)).caption(IMAGES[:1]) == SAID[:1]
        assert time.monotonic() - began >= 1


def test_spending_stops_at_the_cap_and_keeps_what_was_paid_for() -> None:
    with serving(color) as server:
        # an answer costs 1000 * 2 / 1e6 + 10 * 100 / 1e6 = 0.003
        captioner = openai.load(
            config(server, max_cost=0.008, input_price=2.0, output_price=100.0)
        )
        assert captioner.caption(IMAGES[:2]) == SAID[:2]
        assert captioner.caption(IMAGES[2:4]) == SAID[2:4]
        with pytest.raises(
            UserError,
            match=r"max_cost = 0.008 is reached: 4 answers cost 0.012 \(4000 tokens in, 40 out\)",
        ):
            captioner.caption(IMAGES[4:])
        assert len(server.questions) == 4


def test_a_cap_needs_an_endpoint_that_counts() -> None:
    with serving(lambda question: (200, completion("a", tokens=None))) as server:
        with pytest.raises(UserError, match="does not say how many tokens"):
            openai.load(config(server, max_cost=1.0, input_price=1.0)).caption(IMAGES[:1])


def test_the_key_is_sent_and_stays_out_of_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYE_KEY", "sesame")
    with serving(color) as server:
        settings = config(server, api_key_env="EYE_KEY")
        openai.load(settings).caption(IMAGES[:1])
        assert server.headers[0]["Authorization"] == "Bearer sesame"
        before = openai.version(settings)
        monkeypatch.setenv("EYE_KEY", "other")
        assert openai.version(settings) == before
    monkeypatch.delenv("EYE_KEY")
    with pytest.raises(UserError, match="'EYE_KEY', which is no environment variable"):
        openai.load(settings)


def test_the_version_follows_what_an_answer_depends_on() -> None:
    base = config("http://here/v1")
    others = [
        config("http://here/v1", **change)
        for change in ({"model": "b"}, {"max_side": 512}, {"temperature": 1.0})
    ]
    others += [config("http://there/v1"), base.model_copy(update={"prompt": "tags"})]
    others += [base.model_copy(update={"max_new_tokens": 5})]
    versions = [openai.version(settings) for settings in (base, *others)]
    assert len(set(versions)) == len(versions)
    assert (
        openai.version(
            config("http://here/v1/", concurrency=1, retries=0, max_cost=1.0, input_price=1.0)
        )
        == versions[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "must start with http"),
        ({"max_cost": 1.0}, "needs input_price"),
        ({"concurency": 3}, "Did you mean 'concurrency'"),
    ],
)
def test_options_are_checked_with_the_config(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        config("http://here/v1", **options)
