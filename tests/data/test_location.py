"""Locations: any name's bytes become valid UTF-8 text and come back the same."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.files.location import (
    Cell,
    Part,
    Range,
    Unpacked,
    Zipped,
    absolute,
    base_name,
    child,
    named,
    parent,
    parse,
    shown,
    store,
    write,
)

NUMBER = st.integers(0, 2**63)
PARTS = st.one_of(
    st.none(),
    st.builds(Range, NUMBER, NUMBER),
    st.builds(Zipped, NUMBER, NUMBER, NUMBER, NUMBER),
    st.builds(Unpacked, NUMBER, NUMBER),
    st.builds(Cell, NUMBER, NUMBER, st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
)
NAMES = st.binary(min_size=1).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")
)


@given(NAMES, PARTS)
def test_any_local_name_comes_back_and_is_utf8_on_one_line(name: bytes, part: Part | None) -> None:
    file = os.fsdecode(b"/images/" + name)
    text = write(file, part)
    assert parse(text) == (file, part)
    assert len(text.encode("utf-8").splitlines()) == 1


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda key: "/" not in key
    ),
    PARTS,
)
def test_any_key_of_a_store_comes_back_and_the_query_stays(key: str, part: Part | None) -> None:
    file = child("s3://bucket/folder?endpoint_override=h:1", key)
    assert parse(write(file, part)) == (file, part)
    assert base_name(file) == key
    assert parent(file) == "s3://bucket/folder?endpoint_override=h:1"


@given(NAMES, NAMES)
def test_what_is_shown_is_utf8_and_differs_where_names_differ(one: bytes, other: bytes) -> None:
    texts = [shown(os.fsdecode(name)) for name in (one, other)]
    assert [named(text) for text in texts] == [os.fsdecode(name) for name in (one, other)]
    assert all(
        text.encode("utf-8").decode().isprintable() or text.splitlines() == [text]
        for text in texts
    )
    assert (texts[0] == texts[1]) == (one == other)


def test_readable_names_stay_readable() -> None:
    assert write("/data/größe und 猫.png") == "/data/größe und 猫.png"
    assert write("/data/100%#1\n.png") == "/data/100%25%231%0A.png"
    assert shown("caf\udce9\n.png") == "caf\\xe9\\x0a.png"
    assert write("https://e.org/a%20b.png?x=1#top") == "https://e.org/a%20b.png?x=1"
    assert write("/x.tar", Range(512, 7)) == "/x.tar#range=512+7"


def test_a_source_with_what_no_uri_may_hold_is_quoted() -> None:
    assert absolute("s3://b/my photos/ü?scheme=http") == "s3://b/my%20photos/%C3%BC?scheme=http"
    filesystem, path = store(
        absolute("s3://b/my photos/ü?endpoint_override=localhost:1&scheme=http&region=x")
    )
    assert (filesystem.type_name, path) == ("s3", "b/my photos/ü")
    assert absolute("file:///tmp/x") == "/tmp/x"


@pytest.mark.parametrize(
    "text", ["/x#", "/x#range=1", "/x#row=a+b+c", "/x#nonsense=1+2", "/x#range=1+2+3"]
)
def test_text_that_is_no_location_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a location"):
        parse(text)
