"""Many captions in one question: how the answer is read, and when it is accepted."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence

from raytrain.data.image.image import BadImage
from raytrain.errors import UserError

LEAST = 3
"""Fewer captions are asked for one by one: of one or two no common thing can be seen."""
ACCEPTED = 0.8
"""An answer counts when more than this share of its captions has the placeholder."""


def groups(captions: Sequence[str], most: int) -> list[list[str]]:
    """Cut captions into as few groups of at most `most` as there can be, about equally large, at
    least one."""
    count = max(1, -(-len(captions) // most))
    ends = [len(captions) * number // count for number in range(count + 1)]
    return [list(captions[start:end]) for start, end in itertools.pairwise(ends)]


def read(answer: str, count: int, placeholder: str) -> list[str] | str:
    """Return the captions of an answer, or what is wrong with it; `placeholder` "" asks for
    none."""
    start, end = answer.find("["), answer.rfind("]")
    try:
        found = json.loads(answer[start : end + 1]) if start >= 0 else None
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return f"it is no JSON list of texts: {answer[:80]!r}"
    if len(found) != count:
        return f"it has {len(found)} captions for {count}"
    texts = [" ".join(text.split()) for text in found]
    if not all(texts):
        return "some of its captions are empty"
    word = re.compile(rf"(?<!\w){re.escape(placeholder)}(?!\w)")
    having = sum(word.search(text) is not None for text in texts)
    if placeholder and having <= ACCEPTED * count:
        return f"only {having} of its {count} captions have the placeholder {placeholder!r}"
    return texts


def ask(
    question: Callable[[list[str], int], str | BadImage],
    captions: list[str],
    placeholder: str,
    tries: int,
) -> list[str] | None:
    """Return a group's captions from the first answer that is accepted.

    `question(captions, attempt)` asks once; None where the endpoint refuses the group, which may
    be one caption's fault. UserError where no answer is accepted.
    """
    why = ""
    for attempt in range(tries):
        answer = question(captions, attempt)
        if isinstance(answer, BadImage):
            return None
        found = read(answer, len(captions), placeholder)
        if not isinstance(found, str):
            return found
        why = found
    raise UserError(
        f"An answer to {len(captions)} captions is accepted when it has as many, and more than "
        f"{ACCEPTED:.0%} of them the placeholder; none of {tries} was: of the last, {why}. What "
        "was written is kept; ask for fewer at once (data.captions.rewriter_options.together), "
        "more often (tries), or another model."
    )
