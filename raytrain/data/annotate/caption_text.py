"""Caption text: from the raw captions of one image to those its rows are stored with.

Pure functions of their arguments. A final caption reads, from the left: trigger word, quality tag,
prefix, tags of the caption, suffix. The first of them is put before with a comma and a space (the
convention of simple-SD-trainer); prefix and suffix are joined with a space (that of kohya's
`caption_prefix`), so a comma is written where one is wanted: `prefix = "in the style of TOK,"`.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence

from raytrain.config.data import CaptionConfig

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def compose(
    captions: Sequence[str],
    config: CaptionConfig,
    *,
    prefix: str = "",
    suffix: str = "",
    trigger: str = "",
    regularization: bool = False,
    quality: float | None = None,
    identity: str,
    seed: int,
) -> tuple[str, ...]:
    """Return the distinct final captions of one image, at least one: the plain ones in order,
    then their further versions.

    `captions` are raw; empty ones count only where there is no other. `prefix`, `suffix` and
    `trigger` are the item's own, which replace the config's. A regularization image gets no
    trigger word: the placeholder is taken out, and a prefix or suffix that holds it, or the
    trigger, is left out whole. `quality` is the score that `config.quality_tags` bins. `identity`
    names the image (its content's hash): versions are a function of it, the seed and their number,
    and of nothing else.
    """
    bodies = [
        clean(drop(text, config.drop_tags, config.separator), config.separator)
        for text in captions
    ]
    bodies = list(dict.fromkeys(body for body in bodies if body)) or [""]
    first = quality_tag(config.quality_tags, quality)
    trigger = trigger or config.trigger
    before, after = prefix or config.prefix, suffix or config.suffix
    if regularization:
        own = (config.placeholder, trigger)
        before, after = (
            "" if any(_holds(text, word) for word in own) else text for text in (before, after)
        )

    def final(body: str) -> str:
        text = " ".join(part for part in (before, body, after) if part)
        text = f"{first}, {text}" if first else text
        text = clean(text, config.separator) if text != body else body
        if regularization:
            return without(text, config.placeholder, config.separator)
        return triggered(text, trigger, config.placeholder, config.separator)

    versions = [
        variant(body, config, identity=identity, seed=seed, number=number)
        for number in range(1, config.variants)
        for body in bodies
    ]
    return tuple(dict.fromkeys(final(body) for body in [*bodies, *versions]))


def clean(text: str, separator: str = ",") -> str:
    """Return the caption on one line: no white space at its ends or before a separator,
    no empty tags, no control characters.

    >>> clean(" a cat ,, on\\n a  mat, ")
    'a cat, on a mat'
    """
    spaced, doubled, ends = _marks(separator)
    text = " ".join(_CONTROLS.sub(" ", text).split())
    return ends.sub("", doubled.sub(r"\1", spaced.sub(r"\1", text)))


@functools.lru_cache(16)
def _marks(separator: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return patterns of white space before a separator, of one that is repeated,
    and of those at the ends."""
    marks = "|".join(re.escape(mark) for mark in dict.fromkeys((",", separator.strip())) if mark)
    return (
        re.compile(rf"\s+({marks})"),
        re.compile(rf"({marks})(?:\s*\1)+"),
        re.compile(rf"^(?:(?:{marks})\s*)+|(?:\s*(?:{marks}))+$"),
    )


def tags(text: str, separator: str = ",") -> list[str]:
    """Cut a caption into its tags, without white space around them;
    a blank separator cuts at white space."""
    parts = text.split(separator.strip()) if separator.strip() else text.split()
    return [part.strip() for part in parts if part.strip()]


def drop(text: str, unwanted: Sequence[str], separator: str = ",") -> str:
    """Return the caption without the tags that equal an unwanted one;
    the rest is left as it is written."""
    mark = separator.strip() or " "
    names = {name.strip() for name in unwanted}
    return (
        mark.join(part for part in text.split(mark) if part.strip() not in names)
        if names
        else text
    )


def quality_tag(bins: Mapping[str, float], score: float | None) -> str:
    """Return the tag with the highest minimum score that is reached;
    none for no score or one that is not a number."""
    reached = [
        (minimum, tag) for tag, minimum in bins.items() if score is not None and score >= minimum
    ]
    return max(reached)[1] if reached else ""


def triggered(text: str, trigger: str, placeholder: str, separator: str = ",") -> str:
    """Put the trigger in the placeholder's place; without one before the text,
    unless the text has the trigger as a word or a tag.

    Without a trigger word nothing is changed.
    """
    if not trigger:
        return text
    if _holds(text, placeholder):
        return _word(placeholder).sub(lambda _: trigger, text)
    if _holds(text, trigger) or trigger in {*tags(text, separator), *tags(text)}:
        return text
    return f"{trigger}, {text}" if text else trigger


def without(text: str, placeholder: str, separator: str = ",") -> str:
    """Take the placeholder out, a possessive ending included, and the gap it leaves."""
    if not placeholder:
        return text
    return clean(re.sub(_word(placeholder).pattern + r"(?:['\u2019]s\b)?", " ", text), separator)


def variant(body: str, config: CaptionConfig, *, identity: str, seed: int, number: int) -> str:
    """Return version `number` of a caption: its tags after the first `keep_tags` shuffled,
    each left out with `tag_dropout`.

    A tag that holds the placeholder is never left out, and one tag always stays: empty captions
    are what caption dropout is for. Order and choice come from hashes, so they are the same
    everywhere.
    """
    every = tags(body, config.separator)
    kept, rest = every[: config.keep_tags], every[config.keep_tags :]
    mark = config.separator.strip()

    def chance(purpose: str, place: int) -> float:
        content = "\0".join((purpose, identity, str(seed), str(number), str(place)))
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64

    drawn = [(chance("order", place), tag) for place, tag in enumerate(rest)]
    stay = [
        (order, tag)
        for place, (order, tag) in enumerate(drawn)
        if _holds(tag, config.placeholder) or chance("drop", place) >= config.tag_dropout
    ]
    if not kept and not stay:
        stay = drawn[:1]
    joint = f"{mark} " if mark in (",", ";") else f" {mark} " if mark else " "
    return joint.join([*kept, *(tag for _, tag in sorted(stay))])


@functools.lru_cache(64)
def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def _holds(text: str, placeholder: str) -> bool:
    return bool(placeholder) and _word(placeholder).search(text) is not None
