"""Questions to a chat model over HTTP: an OpenAI-compatible endpoint such as vLLM's,
with retries and a cap on the cost."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Timeout

from raytrain.data.files._http import Connections, retry_after
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError
from raytrain.table import Table

Message = dict[str, Any]
REFUSED = (400, 413, 415, 422)
"""Answers that concern this one question: too large, filtered, not understood."""
PASSING = (408, 409, 425, 429)
"""Answers that another try may change, like all from 500 on."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most, also where the server asks for more."""


class EndpointOptions(Table):
    """Settings of a chat endpoint."""

    base_url: str
    """Up to the version, as in http://127.0.0.1:8000/v1. What is asked, images included,
    is sent there."""
    model: str
    """The model's name as the endpoint knows it."""
    api_key_env: str = ""
    """The environment variable that holds the key; workers must have it too. Empty:
    no key is sent."""
    concurrency: int = Field(8, ge=1)
    """Concurrent questions of one worker; no more than data.encode.batch ever are."""
    retries: int = Field(5, ge=0)
    """Retries after a transient failure: too many requests, a server's fault,
    none at all."""
    backoff: float = Field(1.0, gt=0)
    """Seconds before the first of them, doubled each time, unless the server says how long."""
    timeout: float = Field(120.0, gt=0)
    """Seconds without an answer."""
    temperature: float = Field(0.0, ge=0)
    seed: int = 0
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls the limit of an answer's length; some of OpenAI's own models know the
    second alone."""
    max_cost: float | None = Field(None, gt=0)
    """Stop when one worker has spent so much in this run, in the currency of the prices;
    checked before each batch."""
    input_price: float = Field(0.0, ge=0)
    output_price: float = Field(0.0, ge=0)
    """Of a million tokens."""

    @field_validator("base_url")
    @classmethod
    def _is_web(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, got {value!r}")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _priced(self) -> EndpointOptions:
        if self.max_cost is not None and not (self.input_price or self.output_price):
            raise ValueError(
                f"max_cost = {self.max_cost} needs input_price or output_price, or nothing costs "
                "anything"
            )
        return self

    def answers_depend_on(self) -> tuple[Any, ...]:
        """Return the settings that may change an answer."""
        return self.base_url, self.model, self.temperature, self.seed


class Endpoint:
    """Asks an endpoint many questions at once; counts what they cost."""

    def __init__(self, options: EndpointOptions, setting: str) -> None:
        """Take the options and the config key they are under, for messages."""
        self.options, self.setting = options, setting
        headers = {}
        if options.api_key_env:
            if not os.environ.get(options.api_key_env):
                raise UserError(
                    f"{setting}.api_key_env names {options.api_key_env!r}, which is no "
                    f"environment variable here; {options.base_url} would refuse every question. "
                    "Set it where the workers run, or leave the key out."
                )
            headers["Authorization"] = f"Bearer {os.environ[options.api_key_env]}"
        self.connections = Connections(options.concurrency, headers)
        self.pool = ThreadPoolExecutor(options.concurrency)
        self.lock = threading.Lock()
        self.questions = self.input_tokens = self.output_tokens = 0

    @property
    def spent(self) -> float:
        """What the answers so far cost."""
        options = self.options
        return (
            self.input_tokens * options.input_price + self.output_tokens * options.output_price
        ) / 1e6

    def ask(
        self, questions: Sequence[list[Message]], max_tokens: int, attempt: int = 0
    ) -> list[str | BadImage]:
        """Return the answer to each list of messages, in order, or why this one is refused;
        another `attempt` has another seed.

        All else is a UserError.
        """
        if self.options.max_cost is not None and self.spent >= self.options.max_cost:
            raise UserError(
                f"{self.setting}.max_cost = {self.options.max_cost} is reached: {self.questions} "
                f"answers cost {self.spent:.6g} ({self.input_tokens} tokens in, "
                f"{self.output_tokens} out). What was written is kept; raise max_cost and start "
                "again to continue."
            )
        return list(
            self.pool.map(lambda messages: self._answer(messages, max_tokens, attempt), questions)
        )

    def _answer(self, messages: list[Message], max_tokens: int, attempt: int) -> str | BadImage:
        options = self.options
        body = {
            "model": options.model,
            "messages": messages,
            "temperature": options.temperature,
            "seed": options.seed + attempt,
        }
        status, text = self._post(body | {options.length_key: max_tokens})
        if status in REFUSED:
            return BadImage(f"{options.base_url} refuses it with {status}: {_short(text)}")
        if status != 200:
            raise UserError(
                f"{options.base_url} answers {status}: {_short(text)} Nothing can be asked there; "
                f"check {self.setting}: base_url, model = {options.model!r} and api_key_env."
            )
        return self._read(text)

    def _read(self, text: str) -> str | BadImage:
        """Return the words of an answer."""
        import json

        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            content = choice["message"].get("content")
            usage = answer.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.options.base_url} does not answer as a chat endpoint does: {_short(text)} "
                f"Set {self.setting}.base_url to an OpenAI-compatible one, up to /v1."
            ) from error
        if self.options.max_cost is not None and not usage:
            raise UserError(
                f"{self.options.base_url} does not say how many tokens an answer took, so "
                f"{self.setting}.max_cost = {self.options.max_cost} cannot be kept. Remove it, or "
                "use an endpoint that reports usage."
            )
        with self.lock:
            self.questions += 1
            self.input_tokens += tokens[0]
            self.output_tokens += tokens[1]
        words = " ".join(content.split()) if isinstance(content, str) else ""
        return words or BadImage(
            f"{self.options.model} gives no text ({choice.get('finish_reason') or 'no reason'})"
        )

    def _post(self, body: dict[str, Any]) -> tuple[int, str]:
        """Return status and text of the answer, after as many tries as it takes."""
        url, fault = f"{self.options.base_url}/chat/completions", ""
        for attempt in range(self.options.retries + 1):
            asked = 0.0
            try:
                answer = self.connections.request(
                    "POST", url, json=body, timeout=Timeout(self.options.timeout), retries=False
                )
                text = answer.data.decode(errors="replace")
                if answer.status not in PASSING and answer.status < 500:
                    return answer.status, text
                fault = f"answers {answer.status}: {_short(text)}"
                asked = retry_after(answer)
            except LocationValueError as error:
                raise UserError(
                    f"{self.setting}.base_url is no web address, got {url!r}: {error}. Correct it."
                ) from error
            except HTTPError as error:
                fault = f"does not answer: {error or type(error).__name__}"
            if attempt < self.options.retries:
                wait = self.options.backoff * 2**attempt * random.uniform(1, 1.5)
                time.sleep(min(LONGEST_WAIT, max(asked, wait)))
        raise UserError(
            f"{url} {fault}, {self.options.retries + 1} times. What was written is kept; start "
            f"again when the server is well, or ask it less at once ({self.setting}.concurrency = "
            f"{self.options.concurrency})."
        )


def _short(text: str) -> str:
    return " ".join(text.split())[:300] or "nothing."
