"""What a language model is told: to rewrite captions of a style, a face or an object, and to say
in a few words what the images have in common."""

from __future__ import annotations

from typing import Literal

Mode = Literal["", "style", "face", "object"]

PLAIN = (
    "You are given the caption of an image. Say the same in one plain sentence of at most 40 "
    "words, adding nothing."
)
_OF_IMAGE = "You are given the caption of an image. "
_AS = "Rewrite the caption as one sentence of at most 40 words that "
_KEEP = "; keep everything else the caption says, and add nothing."
_SHARED = {
    "": ("Every image of the collection shows {concept}, and its name is {placeholder}. ", ""),
    "style": (
        "All images of the collection are in one style, whose name is {placeholder}. ",
        "The style is {concept}. ",
    ),
    "face": (
        "All images of the collection show one person, whose name is {placeholder}. ",
        "The person is {concept}. ",
    ),
    "object": (
        "All images of the collection show one thing, whose name is {placeholder}. ",
        "The thing is {concept}. ",
    ),
}
"""What the images share, and what is known of it."""
_TASKS = {
    "": "calls it {placeholder} and does not describe what it always looks like",
    "style": "says that the image is in the style of {placeholder} and does not describe the "
    "style: not the technique, not the colors that all images have",
    "face": "calls the person {placeholder} and does not describe the face, the hair or what else "
    "the person always looks like, but the clothes, the pose, the expression and the place",
    "object": "calls the thing {placeholder} and does not describe what it always looks like, but "
    "where it is, from where it is seen and what is around it",
}
ALONE = " Reply with the sentence alone."
TOGETHER = (
    " You get the captions of several images as a JSON list. Do so with each of them, and reply "
    "with a JSON list of as many texts in the same order, and nothing else."
)
_COMMON = {
    "": "what the images have in common",
    "style": "the visual style that the images have in common, not what they show",
    "face": "the person that the images show: age, sex and what does not change",
    "object": "the thing that the images show: what it is and what does not change",
}
MOST_WORDS = {"": 10, "style": 7, "face": 10, "object": 10}
"""Words of a description at most (Eden's limits)."""


def rewrite(mode: Mode, concept: bool) -> str:
    """Return the instruction to rewrite one caption, with {concept} where one is known."""
    if not mode and not concept:
        return PLAIN
    shared, known = _SHARED[mode]
    return f"{_OF_IMAGE}{shared}{known if concept else ''}{_AS}{_TASKS[mode]}{_KEEP}"


def describe(mode: Mode, sheets: bool) -> str:
    """Return the instruction to say what captions, or contact sheets too, have in common."""
    seen = "The images of a collection are shown on contact sheets, and you" if sheets else "You"
    return (
        f"{seen} are given their captions as a JSON list. Say in at most {MOST_WORDS[mode]} words "
        f"{_COMMON[mode]}. Reply with these words alone."
    )
