"""Read a web address: http and https alone, few redirects, a size cap while bytes arrive,
and retries of transient failures."""

from __future__ import annotations

import random
import time

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    LocationValueError,
    MaxRetryError,
    ResponseError,
)
from urllib3.util import Retry, Timeout

from raytrain.config.data import FetchConfig
from raytrain.data.files._http import Connections, retry_after
from raytrain.data.image.image import BadImage

REDIRECTS = 5
CONNECTIONS = 16
"""Connections kept to one host, at most."""
PASSING = (408, 425, 429, *range(500, 600))
"""Answers that another try may change."""
LONGEST_WAIT = 30.0
"""Seconds between two tries at most, also where a server asks for more."""
SLOWEST = 1024
"""Bytes a second, on average, below which a server counts as one that does not answer."""
CHUNK = 2**16


class Web:
    """Reads web addresses; threads may share one.

    The proxies of the environment (`https_proxy`, `no_proxy`) are used.
    """

    def __init__(self, config: FetchConfig) -> None:
        self.config = config
        self._connections = Connections(CONNECTIONS, {"User-Agent": "raytrain"})

    def read(self, url: str) -> bytes:
        """Return what a web address answers; errors as `raytrain.data.files.fetch.Fetcher.read`
        has them."""
        for attempt in range(self.config.retries + 1):
            try:
                return self._read(url)
            except _Passing as fault:
                if attempt == self.config.retries:
                    raise OSError(f"{fault}, {attempt + 1} times") from fault
                time.sleep(
                    min(LONGEST_WAIT, max(fault.wait, 0.25 * 2**attempt * random.uniform(1, 1.5)))
                )
        raise AssertionError("unreachable")

    def _read(self, url: str) -> bytes:
        began = time.monotonic()
        try:
            answer = self._connections.request(
                "GET",
                url,
                preload_content=False,
                timeout=Timeout(self.config.timeout),
                retries=Retry(None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS),
            )
        except (LocationParseError, LocationValueError) as error:
            raise BadImage(f"no web address: {error}") from None
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise BadImage(f"more than {REDIRECTS} redirects") from None
            raise _Passing(_reason(error.reason or error)) from None
        except HTTPError as error:
            raise _Passing(_reason(error)) from None
        try:
            self._check_answer(answer)
            return self._content(answer, began)
        except HTTPError as error:
            raise _Passing(f"the answer broke off: {_reason(error)}") from None
        finally:
            # ends the connection unless all was read, when it is back in its pool already
            answer.close()
            answer.release_conn()

    def _check_answer(self, answer: urllib3.BaseHTTPResponse) -> None:
        if answer.status in PASSING:
            raise _Passing(f"the server answered {answer.status}", retry_after(answer))
        if answer.status != 200:
            raise BadImage(f"the server answered {answer.status} {answer.reason or ''}".rstrip())
        length = answer.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self.config.max_bytes:
            raise self._too_large(f"{length} bytes is")

    def _content(self, answer: urllib3.BaseHTTPResponse, began: float) -> bytes:
        content = bytearray()
        while chunk := answer.read1(CHUNK):
            content += chunk
            if len(content) > self.config.max_bytes:
                raise self._too_large("what arrives is")
            seconds = time.monotonic() - began
            if seconds > self.config.timeout and len(content) < SLOWEST * seconds:
                raise _Passing(f"fewer than {SLOWEST} bytes a second for {seconds:.0f} s")
        return bytes(content)

    def _too_large(self, size: str) -> BadImage:
        return BadImage(f"{size} above data.fetch.max_bytes = {self.config.max_bytes}; not read")


class _Passing(Exception):  # noqa: N818 - becomes an OSError when no try is left
    """Another try may succeed, after `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
