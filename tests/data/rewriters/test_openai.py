"""The rewriter behind an endpoint, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from raytrain import plugins
from raytrain.config.data import CaptionConfig
from raytrain.data.image.image import BadImage
from raytrain.data.rewriters import openai
from raytrain.errors import UserError
from raytrain.table import Table
from tests.data.chat_server import Reply, serving


def config(
    url: str = "http://here/v1", tables: dict[str, Any] | None = None, **options: Any
) -> CaptionConfig:
    options = {"base_url": url, "model": "pen", "backoff": 0.01, "timeout": 5.0, **options}
    return CaptionConfig(rewriter="openai", rewriter_options=options, **(tables or {}))


def shouted(question: dict[str, Any]) -> Any:
    said = question["messages"][1]["content"]
    return (422, "too dull") if said == "dull" else f" {said.upper()} \n"


@pytest.mark.parametrize("name", plugins.names("data.rewriters"))
def test_a_module_offers_the_contract(name: str) -> None:
    module = plugins.load("data.rewriters", name)
    assert issubclass(module.Options, Table)
    assert callable(module.version)
    assert callable(module.load)


def test_captions_are_rewritten_in_order_after_failures() -> None:
    failures: tuple[Reply, ...] = ((500, "oops"), (429, "slow down"))
    with serving(shouted, failures) as server:
        rewriter = openai.load(config(server.url))
        assert rewriter.rewrite(["a cat", "", "a dog", "a fox"]) == ["A CAT", "", "A DOG", "A FOX"]
        assert len(server.questions) == 5
        assert server.questions[0]["messages"][0] == {
            "role": "system",
            "content": openai.instruction(config(server.url)),
        }
        assert server.questions[0]["max_tokens"] == 120
        assert rewriter.rewrite([]) == []


def test_a_refused_caption_is_this_caption_s_fault_alone() -> None:
    with serving(shouted) as server:
        first, dull, last = openai.load(config(server.url)).rewrite(["a cat", "dull", "a dog"])
    assert (first, last) == ("A CAT", "A DOG")
    assert isinstance(dull, BadImage)
    assert "too dull" in str(dull)


def test_the_instruction_names_the_concept_and_the_trigger() -> None:
    told = openai.instruction(config(concept="a plush fox"))
    assert "a plush fox" in told
    assert "TOK" in told
    assert "{" not in told
    own = config(instruction="Call it {trigger}, not {thing}.", tables={"trigger": "sks"})
    assert openai.instruction(own) == "Call it sks, not {thing}."
    for settings in (config(instruction="{trigger}"), config(instruction="{concept}")):
        with pytest.raises(UserError, match="which is empty"):
            openai.version(settings)


def test_the_cost_cap_is_the_rewriter_s_own() -> None:
    with serving(shouted) as server:
        rewriter = openai.load(config(server.url, max_cost=0.001, input_price=2.0))
        assert rewriter.rewrite(["a cat"]) == ["A CAT"]
        with pytest.raises(
            UserError, match=r"rewriter_options.max_cost = 0.001 is reached: 1 answers cost 0.002"
        ):
            rewriter.rewrite(["a dog"])


def test_the_version_follows_what_an_answer_depends_on() -> None:
    changes: list[dict[str, Any]] = [
        {"model": "b"},
        {"concept": "a fox"},
        {"instruction": "shout"},
        {"max_tokens": 5},
    ]
    changes += [{"seed": 1}, {"concept": "a fox", "tables": {"placeholder": "FOX"}}]
    versions = [openai.version(config(**change)) for change in [{}, *changes]]
    assert len(set(versions)) == len(versions)
    assert openai.version(config(concurrency=1, tables={"trigger": "sks"})) == versions[0]


Say = Callable[[list[str]], Any]


def jointly(say: Say) -> Callable[[dict[str, Any]], Any]:
    """Answer a JSON list of captions by a function of it, and a single caption in capitals."""

    def answer(question: dict[str, Any]) -> Any:
        content = question["messages"][1]["content"]
        if not content.startswith("["):
            return f"alone: {content}"
        said = say(json.loads(content))
        return said if isinstance(said, str) else f"Here: {json.dumps(said)}"

    return answer


def test_captions_are_rewritten_together_in_groups_of_equal_size() -> None:
    captions = [f'"{number}", größe' for number in range(120)]
    with serving(jointly(lambda own: [f"TOK {text}" for text in own])) as server:
        rewriter = openai.load(config(server.url, together=50, mode="style"))
        expected = [f"TOK {text}" for text in captions]
        found = rewriter.rewrite([*captions[:60], "", *captions[60:]])
        assert found == [*expected[:60], "", *expected[60:]]
        sizes = [len(json.loads(each["messages"][1]["content"])) for each in server.questions]
        assert sizes == [40, 40, 40]
        assert {each["max_tokens"] for each in server.questions} == {40 * 120}
        server.questions.clear()
        assert rewriter.rewrite(["a", "b"]) == ["alone: a", "alone: b"]
        assert rewriter.rewrite([]) == []
        assert "JSON" not in server.questions[0]["messages"][0]["content"]


def test_an_answer_counts_when_it_has_as_many_and_enough_have_the_placeholder() -> None:
    captions = [f"caption {number}" for number in range(5)]
    wrong: list[Any] = [
        ["TOK"] * 4, "no list at all", ["TOK"] * 4 + ["TOKYO"], ["TOK"] * 4 + [7],
        ["TOK"] * 4 + [" "],
    ]  # fmt: skip
    for bad in wrong:
        answers = iter([bad, ["a TOK"] * 5])
        with serving(jointly(lambda own, answers=answers: next(answers))) as server:  # type: ignore[misc]
            rewriter = openai.load(config(server.url, together=9, mode="face", seed=7))
            assert rewriter.rewrite(captions) == ["a TOK"] * 5
        assert [question["seed"] for question in server.questions] == [7, 8]
    six = ["TOK"] * 5 + ["none"]
    with serving(jointly(lambda own: six)) as server:
        rewriter = openai.load(config(server.url, together=9, concept="a fox"))
        assert rewriter.rewrite([*captions, "one more"]) == six


def test_a_group_that_is_refused_is_asked_for_one_by_one() -> None:
    def answer(question: dict[str, Any]) -> Any:
        content = question["messages"][1]["content"]
        return (422, "filtered") if "dull" in content else f"TOK {content}"

    with serving(answer) as server:
        rewriter = openai.load(config(server.url, together=9, mode="object"))
        first, dull, last = rewriter.rewrite(["a", "dull", "b"])
    assert (first, last) == ("TOK a", "TOK b")
    assert isinstance(dull, BadImage)


def test_five_answers_that_are_not_accepted_are_the_user_s_to_know() -> None:
    with serving(jointly(lambda own: ["TOK", "a", "b"])) as server:
        rewriter = openai.load(config(server.url, together=9, mode="object"))
        with pytest.raises(UserError, match="only 1 of its 3 captions have the placeholder 'TOK'"):
            rewriter.rewrite(["a", "b", "c"])
        assert [question["seed"] for question in server.questions] == [0, 1, 2, 3, 4]
        plain = openai.load(config(server.url, together=9))
        assert plain.rewrite(["a", "b", "c"]) == ["TOK", "a", "b"], "nothing asks for it there"


def test_each_mode_has_its_own_instruction() -> None:
    told = {mode: openai.instruction(config(mode=mode)) for mode in ("style", "face", "object")}
    assert len(set(told.values())) == 3
    assert all("TOK" in text and "{" not in text for text in told.values())
    assert "a plush fox" in openai.instruction(config(mode="object", concept="a plush fox"))
    assert "a plush fox" not in told["object"]
    changes: list[dict[str, Any]] = [{"mode": mode} for mode in told] + [{"together": 9}, {}]
    versions = {openai.version(config(**change)) for change in changes}
    assert len(versions) == len(changes)


def test_a_concept_is_described_in_few_words_and_asked_for_again_where_there_are_more() -> None:
    answers = iter(["a very long description of this style here now", ' "flat ink, two colors." '])
    with serving(lambda question: next(answers)) as server:
        describer = openai.describer(config(server.url, mode="style", describe="images"))
        assert describer is not None
        sheet = Image.new("RGB", (512, 256), "red")
        assert describer.describe(["a", "b"], [sheet]) == "flat ink, two colors"
    assert [question["seed"] for question in server.questions] == [0, 1]
    system, user = server.questions[0]["messages"]
    assert "at most 7 words" in system["content"]
    assert json.loads(user["content"][0]["text"]) == ["a", "b"]
    assert user["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert openai.describer(config(mode="style", describe="images", concept="ink")) is None
    assert openai.describer(config(mode="style")) is None
    with serving(lambda question: "word " * 11) as server:
        describer = openai.describer(config(server.url, describe="captions", tries=2))
        assert describer is not None
        with pytest.raises(UserError, match="at most 10 words, but none of 2"):
            describer.describe(["a"], [])
