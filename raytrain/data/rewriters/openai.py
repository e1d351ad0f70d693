"""Captions rewritten by a language model behind an OpenAI-compatible endpoint,
vLLM's for instance.

Each caption is one question: the instruction, which may name what the images have in common, and
the caption; with `together`, so many captions are one question. What the images have in common can
be asked for first (`describe`).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from raytrain.config.data import CaptionConfig
from raytrain.data.annotate._chat_endpoint import Endpoint, EndpointOptions
from raytrain.data.image.image import BadImage
from raytrain.data.rewriters import Rewriter, _prompts, _together
from raytrain.data.store.schema import content_key
from raytrain.errors import UserError

SETTING = "data.captions.rewriter_options"


class Options(EndpointOptions):
    """The endpoint, and the instruction."""

    mode: _prompts.Mode = ""
    """What the images have in common is a style, a face or an object: chooses the instruction."""
    concept: str = ""
    """What the images have in common, in a few words: "a plush fox with one ear",
    "ink drawings on yellow paper"."""
    describe: Literal["no", "captions", "images"] = "no"
    """Where there is no concept, have the model describe it, from the captions or from contact
    sheets of the images too."""
    instruction: str = ""
    """The instruction, {concept}, {placeholder} and {trigger} replaced; default:
    that of the mode; without mode and concept to say the same in one sentence."""
    together: int = Field(1, ge=1, le=100)
    """Captions of one question at most. Its answer must have as many, and more than 80 % of them
    the placeholder; fewer than three are asked for one by one."""
    tries: int = Field(5, ge=1)
    """Questions until such an answer, or a short enough description, each with the next seed."""
    max_tokens: int = Field(120, ge=1)
    """Of one caption."""


def version(config: CaptionConfig) -> str:
    """Return the hash over endpoint, model, instruction and settings."""
    options = Options(**config.rewriter_options)
    joint = (options.together, options.tries) if options.together > 1 else ()
    return content_key(
        "openai",
        options.answers_depend_on(),
        instruction(config, pending=options.describe != "no"),
        options.max_tokens,
        *joint,
    )


def load(config: CaptionConfig) -> Rewriter:
    """Return a rewriter that asks; nothing is loaded here."""
    return _Asking(config)


def at_once(config: CaptionConfig) -> int:
    """Return how many captions are one question."""
    return Options(**config.rewriter_options).together


def describer(config: CaptionConfig) -> Describer | None:
    """Return what asks for the concept; None where it is known or not wanted."""
    options = Options(**config.rewriter_options)
    return None if options.describe == "no" or options.concept else Describer(options)


def instruction(config: CaptionConfig, pending: bool = False) -> str:
    """Return the instruction to the model; while a concept is `pending`, it may be missing."""
    options = Options(**config.rewriter_options)
    told = _prompts.TOGETHER if options.together > 1 else _prompts.ALONE
    own = options.instruction + (told if options.together > 1 else "")
    text = own if options.instruction else _told(options) + told
    words = {
        "concept": options.concept,
        "placeholder": config.placeholder,
        "trigger": config.trigger,
    }
    for name, word in words.items():
        if f"{{{name}}}" in text and not word and not (pending and name == "concept"):
            raise UserError(
                f"data.captions.rewriter_options.instruction names {{{name}}}, which is empty; "
                "the model would get half a sentence. Set "
                f"{'rewriter_options.concept' if name == 'concept' else f'data.captions.{name}'}, "
                "or leave it out."
            )
        text = text.replace(f"{{{name}}}", word)
    return text


def _told(options: Options) -> str:
    return options.instruction or _prompts.rewrite(options.mode, bool(options.concept))


class _Asking:
    def __init__(self, config: CaptionConfig) -> None:
        self.options = options = Options(**config.rewriter_options)
        alone = config.model_copy(
            update={"rewriter_options": {**config.rewriter_options, "together": 1}}
        )
        self.together, self.alone = instruction(config), instruction(alone)
        self.placeholder = config.placeholder if "{placeholder}" in _told(options) else ""
        self.endpoint = Endpoint(options, SETTING)

    def rewrite(self, captions: list[str]) -> list[str | BadImage]:
        """Ask for all captions at once; an empty one stays empty and costs nothing."""
        asked = [caption for caption in captions if caption.strip()]
        most = self.options.together if self.options.together > 1 else max(1, len(asked))
        answers = iter([said for group in _together.groups(asked, most)
                        for said in self._group(group)])  # fmt: skip
        return [next(answers) if caption.strip() else "" for caption in captions]

    def _group(self, captions: list[str]) -> list[str | BadImage]:
        if self.options.together > 1 and len(captions) >= _together.LEAST:
            found = _together.ask(self._question, captions, self.placeholder, self.options.tries)
            if found is not None:
                return list(found)
        questions = [self._messages(self.alone, caption) for caption in captions]
        return self.endpoint.ask(questions, self.options.max_tokens)

    def _question(self, captions: list[str], attempt: int) -> str | BadImage:
        content = json.dumps(captions, ensure_ascii=False)
        tokens = self.options.max_tokens * len(captions)
        [answer] = self.endpoint.ask([self._messages(self.together, content)], tokens, attempt)
        return answer

    def _messages(self, instruction: str, content: str) -> list[dict[str, Any]]:
        return [{"role": "system", "content": instruction}, {"role": "user", "content": content}]


class Describer:
    """Asks what the images have in common."""

    def __init__(self, options: Options) -> None:
        self.options, self.images = options, options.describe == "images"
        self.told = _prompts.describe(options.mode, self.images)

    @property
    def version(self) -> str:
        """The hash over all but the images that a description depends on."""
        return content_key("openai describes", self.options.answers_depend_on(), self.told)

    def describe(self, captions: Sequence[str], sheets: Sequence[Image.Image]) -> str:
        """Return a few words; UserError where no answer is short enough."""
        text = json.dumps(list(captions), ensure_ascii=False)
        content: Any = [{"type": "text", "text": text}] if sheets else text
        for sheet in sheets:
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=92)
            url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            content.append({"type": "image_url", "image_url": {"url": url}})
        question = [{"role": "system", "content": self.told}, {"role": "user", "content": content}]
        endpoint, most, said = Endpoint(self.options, SETTING), self._most(), ""
        for attempt in range(self.options.tries):
            [answer] = endpoint.ask([question], self.options.max_tokens, attempt)
            if isinstance(answer, BadImage):
                raise UserError(
                    f"{answer}: the concept cannot be described. Set {SETTING}.concept yourself, "
                    'or describe = "captions".'
                )
            said = answer.strip(" \"'.")
            if said and len(said.split()) <= most:
                return said
        raise UserError(
            f"A concept is described in at most {most} words, but none of {self.options.tries} "
            f"answers was so short; the last was {said[:120]!r}. Set {SETTING}.concept yourself, "
            "or choose another model."
        )

    def _most(self) -> int:
        return _prompts.MOST_WORDS[self.options.mode]
