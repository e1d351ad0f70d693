"""The rewriter behind an endpoint, against a real HTTP server."""

from __future__ import annotations

from typing import Any

import pytest

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
        assert server.questions[0]["messages"][0] == {"role": "system", "content": openai.PLAIN}
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
