"""Captions rewritten by a language model behind an OpenAI-compatible endpoint,
vLLM's for instance.

Each caption is one question: the instruction, which may name what the images have in common, and
the caption.
"""

from __future__ import annotations

from pydantic import Field

from raytrain.config.data import CaptionConfig
from raytrain.data.annotate._chat_endpoint import Endpoint, EndpointOptions
from raytrain.data.image.image import BadImage
from raytrain.data.rewriters import Rewriter
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError

PLAIN = (
    "You are given the caption of an image. Say the same in one plain sentence of at most 40 "
    "words, adding nothing. Reply with the sentence alone."
)
OF_CONCEPT = (
    "You are given the caption of an image. Every image of the collection shows {concept}, and "
    "its name is {placeholder}. Rewrite the caption as one sentence of at most 40 words that "
    "calls it {placeholder} and does not describe what it always looks like; keep everything else "
    "the caption says, and add nothing. Reply with the sentence alone."
)


class Options(EndpointOptions):
    """The endpoint, and the instruction."""

    concept: str = ""
    """What the images have in common, in a few words: "a plush fox with one ear",
    "ink drawings on yellow paper"."""
    instruction: str = ""
    """The instruction, {concept}, {placeholder} and {trigger} replaced; default:
    to say the same in one sentence, and with a concept to call it by the placeholder."""
    max_tokens: int = Field(120, ge=1)


def version(config: CaptionConfig) -> str:
    """Return the hash over endpoint, model, instruction and settings."""
    options = Options(**config.rewriter_options)
    return content_key(
        "openai", options.answers_depend_on(), instruction(config), options.max_tokens
    )


def load(config: CaptionConfig) -> Rewriter:
    """Return a rewriter that asks; nothing is loaded here."""
    return _Asking(config)


def instruction(config: CaptionConfig) -> str:
    """Return the instruction to the model."""
    options = Options(**config.rewriter_options)
    text = options.instruction or (OF_CONCEPT if options.concept else PLAIN)
    words = {
        "concept": options.concept,
        "placeholder": config.placeholder,
        "trigger": config.trigger,
    }
    for name, word in words.items():
        if f"{{{name}}}" in text and not word:
            raise UserError(
                f"data.captions.rewriter_options.instruction names {{{name}}}, which is empty; "
                "the model would get half a sentence. Set "
                f"{'rewriter_options.concept' if name == 'concept' else f'data.captions.{name}'}, "
                "or leave it out."
            )
        text = text.replace(f"{{{name}}}", word)
    return text


class _Asking:
    def __init__(self, config: CaptionConfig) -> None:
        self.options, self.instruction = Options(**config.rewriter_options), instruction(config)
        self.endpoint = Endpoint(self.options, "data.captions.rewriter_options")

    def rewrite(self, captions: list[str]) -> list[str | BadImage]:
        """Ask for all captions at once; an empty one stays empty and costs nothing."""
        system = {"role": "system", "content": self.instruction}
        questions = [
            [system, {"role": "user", "content": caption}]
            for caption in captions
            if caption.strip()
        ]
        answers = iter(self.endpoint.ask(questions, self.options.max_tokens) if questions else ())
        return [next(answers) if caption.strip() else "" for caption in captions]
