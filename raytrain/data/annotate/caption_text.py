"""Caption text: from the raw captions of one image to those its rows are stored with.

Pure functions of their arguments. A final caption reads, from the left: trigger word, quality tag,
prefix, tags of the caption, suffix. The first of them is put before with a comma and a space (the
convention of simple-SD-trainer); prefix and suffix are joined with a space (that of kohya's
`caption_prefix`), so a comma is written where one is wanted: `prefix = "in the style of TOK,"`,
unless `affixes` says otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from raytrain.config.captions import CaptionConfig

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


def compose(
    captions: Sequence[str],
    config: CaptionConfig,
    *,
    prefix: str = "",
    suffix: str = "",
    regularization: bool = False,
    quality: float | None = None,
    site: str = "",
    identity: str,
    seed: int,
) -> tuple[str, ...]:
    """Return the distinct final captions of one image, at least one: the plain ones in order,
    then their further versions; then all of them again for each stage of the warm-up, and the
    trigger alone where captions are dropped to it (`whole` and the loader count on it).

    `captions` are raw; empty ones count only where there is no other. `prefix` and `suffix` are
    the item's own, which replace the config's. A regularization image gets no trigger word: the
    placeholder is taken out, and a prefix or suffix that holds it, or the trigger, is left out
    whole. `quality` is the score that `config.quality_tags` bins; `site` is what `Item.site` is:
    words for its score, rating and meta tags follow the trigger word. `identity` names the image
    (its content's hash): versions are a function of it, the seed and their number, and of nothing
    else.
    """
    bodies = [
        clean(plain(drop(line, config.drop_tags, config.separator), config), config.separator)
        for text in captions
        for line in lines(text, config.lines)
    ]
    bodies = list(dict.fromkeys(body for body in bodies if body)) or [""]
    first = ", ".join(site_words(site, quality, config))
    before, after = prefix or config.prefix, suffix or config.suffix
    if regularization:
        own = (config.placeholder, config.trigger)
        before, after = (
            "" if any(_holds(text, word) for word in own) else text for text in (before, after)
        )
    joint = "" if config.affixes == "raw" else " "
    early = config.affixes == "shuffled"

    def joined(body: str) -> str:
        text = joint.join(part for part in (before, body, after) if part)
        return clean(text, config.separator) if text != body else body

    def final(body: str) -> str:
        text = body if early else joined(body)
        text = clean(f"{first}, {text}", config.separator) if first else text
        if regularization:
            return without(text, config.placeholder, config.separator)
        return triggered(text, config.trigger, config.placeholder, config.separator)

    def version(number: int, body: str, share: float | None = None) -> str:
        return final(variant(body, config, identity=identity, seed=seed, number=number,
                             share=share))  # fmt: skip

    complete: dict[str, tuple[int, str]] = {}
    for number in range(config.variants):
        for body in map(joined, bodies) if early else bodies:
            complete.setdefault(version(number, body), (number, body))
    stages = config.warmup_stages
    first_tags = [version(*each, stage / stages) for stage in range(stages)
                  for each in complete.values()]  # fmt: skip
    alone = [config.trigger * (not regularization)] * (config.dropped == "trigger")
    return (*complete, *first_tags, *alone)


def unvaried(captions: Sequence[str], config: CaptionConfig) -> Sequence[str]:
    """Return those of an image's stored captions that are not only further versions of others;
    where there are such, the first."""
    return captions[:1] if config.variants > 1 else whole(captions, config)


def whole(captions: Sequence[str], config: CaptionConfig) -> Sequence[str]:
    """Return an image's stored captions without those of the warm-up and the trigger alone."""
    count = len(captions) - (config.dropped != "empty")
    return captions[: count // (config.warmup_stages + 1)]


def settled(config: CaptionConfig, own: str) -> CaptionConfig:
    """Return the config with what an image's source sets for it (`Item.caption_settings`)."""
    settings = json.loads(own) if own else {}
    if settings.get("variants", 1) > 1 and config.variants > 1:
        del settings["variants"]
    return config.model_copy(update=settings)


def lines(text: str, rule: str) -> list[str]:
    """Return the captions that a text of several lines is, by the rule of
    `data.captions.lines`; blank lines do not count."""
    found = [line for line in re.split(r"\r?\n|\r", text) if line.strip()] or [text]
    return [text] if rule == "joined" else found[:1] if rule == "first" else found


def plain(text: str, config: CaptionConfig) -> str:
    """Return a raw caption in lower case and without what is stripped, as the config says; the
    placeholder stays as it is."""
    if config.lowercase:
        parts = re.split(f"({_word(config.placeholder).pattern})", text)
        whole = config.placeholder or None
        text = "".join(part if part == whole else part.lower() for part in parts)
    return text.rstrip().rstrip(config.strip) if config.strip else text


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


def site_words(site: str, quality: float | None, config: CaptionConfig) -> list[str]:
    """Return the words for an image's score, for its rating, and those of its meta tags that are
    wanted."""
    said = json.loads(site) if site else {}
    score = said.get("score") if config.quality_score == "site" else quality
    ratings = config.rating_words
    rating = ratings.get(said["rating"], ratings.get("*", "")) if "rating" in said else ""
    meta = [tag for tag in said.get("meta", ()) if tag in config.meta_tags]
    return [word for word in (quality_tag(config.quality_tags, score), rating, *meta) if word]


def site_unsaid(site: str, config: CaptionConfig) -> tuple[bool, bool]:
    """Tell whether an image's record says nothing of what the config has words for, and whether
    it says what the config has none for."""
    wanted = {
        "score": bool(config.quality_tags) and config.quality_score == "site",
        "rating": bool(config.rating_words),
        "meta": bool(config.meta_tags),
    }
    said = json.loads(site) if site else {}
    lacks = any(wanted[name] and name not in said for name in ("score", "rating"))
    return lacks, any(not wanted[name] for name in said)


def triggered(text: str, trigger: str, placeholder: str, separator: str = ",") -> str:
    """Put the trigger in the placeholder's place; without one before the text,
    unless the text has the trigger as a word or a tag, in upper or lower case.

    Without a trigger word nothing is changed.
    """
    if not trigger:
        return text
    if _holds(text, placeholder):
        return _word(placeholder).sub(lambda _: trigger, text)
    if _says(text, trigger) or trigger in {*tags(text, separator), *tags(text)}:
        return text
    return f"{trigger}, {text}" if text else trigger


def without(text: str, placeholder: str, separator: str = ",") -> str:
    """Take the placeholder out, a possessive ending included, and the gap it leaves."""
    if not placeholder:
        return text
    return clean(re.sub(_word(placeholder).pattern + r"(?:['\u2019]s\b)?", " ", text), separator)


def variant(
    body: str,
    config: CaptionConfig,
    *,
    identity: str,
    seed: int,
    number: int,
    share: float | None = None,
) -> str:
    """Return version `number` of a caption: 0 with its tags in order; each other with those after
    the kept ones shuffled and left out with `tag_dropout`. `share`, in [0, 1), is how far the
    warm-up is: only the first of those tags are there (sd-scripts' token_warmup).

    A tag that holds the placeholder is never left out, and one tag always stays: empty captions
    are what caption dropout is for. Order and choice come from hashes, so they are the same
    everywhere.
    """

    def chance(purpose: str, place: int) -> float:
        content = "\0".join((purpose, identity, str(seed), str(number), str(place)))
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64

    text = expand(body, lambda place: chance("wildcard", place)) if config.wildcards else body
    marked = bool(config.keep_separator) and config.keep_separator in text
    if number or marked or share is not None:
        kept, rest, end = kept_tags(text, config)
        if share is not None:
            least = min(config.warmup_min, len(rest))
            rest = rest[: int(share * (len(rest) - least)) + least]
        drawn = [
            (chance("order", place) if number and config.shuffle_tags else place, tag)
            for place, tag in enumerate(rest)
        ]
        stay = [
            (order, tag)
            for place, (order, tag) in enumerate(drawn)
            if not number
            or _holds(tag, config.placeholder)
            or chance("drop", place) >= config.tag_dropout
        ]
        if not (kept or end or stay):
            stay = drawn[:1]
        mark = config.separator.strip()
        joint = f"{mark} " if mark in (",", ";") else f" {mark} " if mark else " "
        text = joint.join([*kept, *(tag for _, tag in sorted(stay)), *end])
    if config.secondary_separator:
        text = text.replace(config.secondary_separator, config.separator)
    return clean(text, config.separator) if text != body else body


def kept_tags(text: str, config: CaptionConfig) -> tuple[list[str], list[str], list[str]]:
    """Cut a caption into the tags that stay in front, those that may be moved or left out, and
    those that stay at the end."""
    parts = text.split(config.keep_separator, 2) if config.keep_separator else [text]
    cut = [tags(part, config.separator) for part in parts]
    if len(cut) == 1:
        return cut[0][: config.keep_tags], cut[0][config.keep_tags :], []
    return cut[0], cut[1], cut[2] if len(cut) == 3 else []


def expand(text: str, chance: Callable[[int], float]) -> str:
    """Return the text with one word of each `{a|b}`, by `chance(place)` in [0, 1); `{{` and `}}`
    are braces.

    >>> expand("a {red|green} hat {{1}}", lambda place: 0.5)
    'a green hat {1}'
    """

    def word(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        choices = match[1].split("|")
        return choices[int(chance(match.start()) * len(choices))]

    return _BRACES.sub(word, text)


@functools.lru_cache(64)
def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def _holds(text: str, placeholder: str) -> bool:
    return bool(placeholder) and _word(placeholder).search(text) is not None


def _says(text: str, trigger: str) -> bool:
    """Tell whether a text has the trigger, however case, accents and gaps are written; where words
    are written without gaps, as in Chinese and Japanese, anywhere in it."""
    text, trigger = (
        " ".join(unicodedata.normalize("NFC", each).casefold().split()) for each in (text, trigger)
    )
    if any(
        unicodedata.east_asian_width(edge) == "W" for edge in (trigger[:1], trigger[-1:]) if edge
    ):
        return trigger in text
    return _holds(text, trigger)
