"""Caption text: whole words, the order of the parts, versions that are functions of the image and
the seed alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.config.data import CaptionConfig
from raytrain.data.annotate.caption_text import (
    clean,
    compose,
    drop,
    quality_tag,
    tags,
    triggered,
    variant,
    without,
)

WORDS = (
    st.text("abcXYZ é", min_size=1, max_size=8)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
TAGS = st.lists(WORDS, min_size=1, max_size=8, unique=True)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


def composed(
    *captions: str,
    item: dict[str, Any] | None = None,
    identity: str = "image",
    seed: int = 0,
    **settings: Any,
) -> tuple[str, ...]:
    return compose(
        captions, CaptionConfig(**settings), identity=identity, seed=seed, **(item or {})
    )


@pytest.mark.parametrize(
    ("settings", "captions", "expected"),
    [
        ({}, ["a cat"], ("a cat",)),
        ({}, [], ("",)),
        ({}, ["", "  ", ","], ("",)),
        ({}, ["a cat", "", "a dog", "a cat "], ("a cat", "a dog")),
        ({"trigger": "sks"}, ["a cat"], ("sks, a cat",)),
        ({"trigger": "sks"}, [], ("sks",)),
        (
            {"trigger": "sks"},
            ["TOK on a mat in TOKYO, atTOK, TOK's hat"],
            ("sks on a mat in TOKYO, atTOK, sks's hat",),
        ),
        ({"trigger": "sks"}, ["tok, Tokyo"], ("sks, tok, Tokyo",)),
        ({"trigger": "sks"}, ["red, sks, cat"], ("red, sks, cat",)),
        ({"trigger": "s\\1"}, ["TOK"], ("s\\1",)),
        (
            {"trigger": "sks", "prefix": "in the style of TOK,"},
            ["a cat"],
            ("in the style of sks, a cat",),
        ),
        ({"trigger": "sks", "placeholder": "<s0>"}, ["a <s0> cat"], ("a sks cat",)),
        ({"trigger": "sks", "placeholder": ""}, ["TOK cat"], ("sks, TOK cat",)),
        ({"prefix": "photo of", "suffix": "outdoors"}, ["a cat"], ("photo of a cat outdoors",)),
        (
            {"prefix": "p", "item": {"prefix": "own", "suffix": "end"}},
            ["a cat"],
            ("own a cat end",),
        ),
        ({"drop_tags": ["solo", "1girl"]}, ["1girl, cat , solo, solo cat"], ("cat, solo cat",)),
        ({"drop_tags": ["a"], "separator": "|"}, ["a | b, a |c"], ("b, a|c",)),
        (
            {"lowercase": True, "strip": ".", "trigger": "KongFu"},
            ["A Cat sat. There...", "TOK Sat."],
            ("KongFu, a cat sat. there", "KongFu sat"),
        ),
        ({"lowercase": True, "placeholder": ""}, ["A Cat"], ("a cat",)),
        ({"affixes": "raw", "prefix": "a_", "suffix": ", end"}, ["Cat"], ("a_Cat, end",)),
        ({}, ["a cat\n\nsits\r\nthere"], ("a cat sits there",)),
        ({"lines": "first"}, ["\na cat\nsits"], ("a cat",)),
        ({"lines": "each"}, ["a cat\n\na dog\r\n"], ("a cat", "a dog")),
        ({"wildcards": True}, ["a {red} hat {{1}}"], ("a red hat {1}",)),
        ({"keep_separator": "|||"}, ["a, b ||| c,d ||| e"], ("a, b, c, d, e",)),
        ({"secondary_separator": ";;;"}, ["a;;;b, c"], ("a,b, c",)),
        (
            {"quality_tags": {"low": 0.0, "high": 5.0}, "item": {"quality": 5.0}},
            ["a cat"],
            ("high, a cat",),
        ),
        (
            {
                "quality_tags": {"low": 0.0, "high": 5.0},
                "item": {"quality": 4.9},
                "trigger": "sks",
            },
            ["x"],
            ("sks, low, x",),
        ),
        ({"quality_tags": {"low": 0.0}, "item": {"quality": -1.0}}, ["a cat"], ("a cat",)),
        ({"quality_tags": {"low": 0.0}, "item": {"quality": float("nan")}}, ["a cat"], ("a cat",)),
        ({"quality_tags": {"low": 0.0}}, ["a cat"], ("a cat",)),
    ],
)
def test_a_caption_is_composed(
    settings: dict[str, Any], captions: list[str], expected: tuple[str, ...]
) -> None:
    assert composed(*captions, **settings) == expected


def test_a_regularization_image_has_neither_trigger_nor_placeholder() -> None:
    settings: dict[str, Any] = {"trigger": "sks", "item": {"regularization": True}}
    assert composed("a photo of TOK cat, TOK's hat", **settings) == ("a photo of cat, hat",)
    assert composed("a cat", prefix="in the style of TOK,", suffix="by sks", **settings) == (
        "a cat",
    )
    assert composed("a cat in TOKYO", prefix="a photo,", **settings) == (
        "a photo, a cat in TOKYO",
    )
    assert composed("TOK", **settings) == ("",)


@given(TAGS, st.integers(0, 3), st.floats(0, 0.9), st.integers(2, 5), st.integers(0, 9))
def test_versions_shuffle_and_drop_but_keep_the_first_tags(
    words: list[str], keep: int, dropout: float, variants: int, seed: int
) -> None:
    settings: dict[str, Any] = {
        "keep_tags": keep,
        "tag_dropout": dropout,
        "variants": variants,
        "seed": seed,
    }
    text = ", ".join(words)
    made = composed(text, **settings)
    assert made[0] == text
    assert 1 <= len(made) <= variants
    assert len(set(made)) == len(made)
    for version in made[1:]:
        assert tags(version)[:keep] == words[:keep]
        assert tags(version)
        assert set(tags(version)) <= set(words)
        if not dropout:
            assert sorted(tags(version)) == sorted(words)
    assert made == composed(text, **settings)


def test_versions_differ_by_image_seed_and_number_and_drop_the_share() -> None:
    config = CaptionConfig(tag_dropout=0.25)
    body = ", ".join(f"tag{number}" for number in range(40))
    orders = {
        variant(body, config, identity=i, seed=s, number=n)
        for i in "ab"
        for s in (0, 1)
        for n in (1, 2)
    }
    assert len(orders) == 8
    kept = [
        len(tags(variant(body, config, identity=str(i), seed=0, number=1))) for i in range(200)
    ]
    assert (
        abs(sum(kept) / len(kept) / 40 - 0.75) < 0.02
    )  # 8,000 draws: 0.02 is four standard errors


def test_versions_are_the_same_in_every_process() -> None:
    config = CaptionConfig(tag_dropout=0.3)
    made = variant("a, b, c, d, e, f", config, identity="picture", seed=7, number=2)
    assert (
        made == "f, b, e, c"
    )  # fixed: a change of this order is a change of every dataset with versions


def test_a_tag_with_the_placeholder_is_never_left_out() -> None:
    config = CaptionConfig(tag_dropout=0.9)
    for number in range(50):
        assert "TOK cat" in tags(
            variant("a, TOK cat, b", config, identity="x", seed=0, number=number)
        )


@given(TEXTS, st.sampled_from([",", "|", ";", " ", ".", "||"]))
def test_cleaning_is_done_once_and_for_all(text: str, separator: str) -> None:
    once = clean(text, separator)
    assert clean(once, separator) == once
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]|^\s|\s$|  |^,|,$|\s,", once)


@given(TEXTS, TEXTS)
def test_only_whole_words_are_replaced(left: str, right: str) -> None:
    whole = not re.search(r"\w", left[-1:] + right[:1])
    text = triggered(f"{left}TOK{right}", "sks", "TOK")
    if "TOK" not in left + right:
        assert (f"{left}sks{right}" == text) == whole
        assert ("TOK" in text) != whole


def test_small_parts() -> None:
    assert drop("a, b", ["c"]) == "a, b"
    assert tags("a  b", " ") == ["a", "b"]
    assert without("a TOK", "") == "a TOK"
    assert quality_tag({"best": 9.0, "good": 5.0, "bad": -5.0}, 7.0) == "good"


def test_what_is_marked_is_kept_in_front_and_at_the_end() -> None:
    found = composed(
        "a, b ||| c;;;d, e, f ||| g",
        keep_separator="|||",
        secondary_separator=";;;",
        variants=40,
        tag_dropout=0.3,
    )
    assert found[0] == "a, b, c,d, e, f, g"
    for text in found:
        assert text.startswith("a, b")
        assert text.endswith(", g")
        assert "c,d" in text or "c" not in text
    middles = {text.removeprefix("a, b").removesuffix(", g") for text in found}
    assert {", f, e, c,d", ", e", ""} <= middles


def test_tags_may_be_left_out_without_being_moved() -> None:
    found = composed("a, b, c, d", shuffle_tags=False, variants=60, tag_dropout=0.4)
    assert len(found) > 8
    assert all(tags(text) == sorted(tags(text)) for text in found)


def test_every_word_of_a_wildcard_is_drawn() -> None:
    found = composed("a {red|green|blue} {big|small} hat", wildcards=True, variants=80,
                     shuffle_tags=False)  # fmt: skip
    words = {f"a {color} {size} hat" for color in ("red", "green", "blue")
             for size in ("big", "small")}  # fmt: skip
    assert set(found) == words


def test_tags_of_prefix_and_suffix_are_shuffled_where_they_should_be() -> None:
    settings: dict[str, Any] = {"prefix": "p,", "suffix": ", s", "variants": 30}
    assert {text[0] for text in composed("a, b", **settings)} == {"p"}
    found = composed("a, b", affixes="shuffled", trigger="t", **settings)
    assert found[0] == "t, p, a, b, s"
    assert {text[3] for text in found} == {"p", "a", "b", "s"}
