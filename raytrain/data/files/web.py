"""Read a web address: http and https alone, few redirects, a size cap while bytes arrive,
and retries of transient failures."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

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

Value = TypeVar("Value")


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
        return self._tried(lambda: self._read(url))

    def save(self, url: str, file: str) -> None:
        """Write what a web address answers to a local file, of any size, going on from what is in
        it already where the server can; errors as `read` has them."""

        def arrived() -> int:
            return os.path.getsize(file) if os.path.exists(file) else 0

        self._tried(lambda: self._append(url, file), arrived)

    def _tried(self, ask: Callable[[], Value], arrived: Callable[[], int] = lambda: 0) -> Value:
        """Ask again after transient failures, so often as `retries` says without any more bytes
        arriving."""
        attempt, most = 0, 0
        while True:
            try:
                return ask()
            except _Passing as fault:
                if arrived() > most:
                    attempt, most = 0, arrived()
                if attempt == self.config.retries:
                    raise OSError(f"{fault}, {attempt + 1} times") from fault
                time.sleep(
                    min(LONGEST_WAIT, max(fault.wait, 0.25 * 2**attempt * random.uniform(1, 1.5)))
                )
                attempt += 1

    def _read(self, url: str) -> bytes:
        with self._answer(url) as answer:
            if answer.status != 200:
                raise _refused(answer)
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > self.config.max_bytes:
                raise self._too_large(f"{length} bytes is")
            content = bytearray()
            for chunk in self._chunks(answer):
                content += chunk
                if len(content) > self.config.max_bytes:
                    raise self._too_large("what arrives is")
            return bytes(content)

    def _append(self, url: str, file: str) -> None:
        """Ask for what a file lacks; its name and `.version` holds which version of the answer it
        is of."""
        version = Path(f"{file}.version")
        have = os.path.getsize(file) if os.path.exists(file) and version.exists() else 0
        wanted = {"Range": f"bytes={have}-", "If-Range": version.read_text()} if have else {}
        with self._answer(url, wanted) as answer:
            on = answer.status == 206 and _start(answer) == have
            if not on and answer.status != 200:
                if answer.status == 416 or answer.status == 206:  # no such part: from the start
                    os.remove(file)
                    raise _Passing(f"the server answered {answer.status} for the rest")
                raise _refused(answer)
            tag = answer.headers.get("ETag", "")
            mark = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
            if mark:
                version.write_text(mark)
            else:
                version.unlink(missing_ok=True)
            with open(file, "ab" if on else "wb") as stream:
                for chunk in self._chunks(answer):
                    stream.write(chunk)
        version.unlink(missing_ok=True)

    @contextmanager
    def _answer(
        self, url: str, headers: Mapping[str, str] | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Give an answer whose content is not read yet."""
        try:
            answer = self._connections.request(
                "GET",
                url,
                headers=headers or {},
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
            if answer.status in PASSING:
                raise _Passing(f"the server answered {answer.status}", retry_after(answer))
            yield answer
        except HTTPError as error:
            raise _Passing(f"the answer broke off: {_reason(error)}") from None
        finally:
            # ends the connection unless all was read, when it is back in its pool already
            answer.close()
            answer.release_conn()

    def _chunks(self, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """Yield an answer's content as it arrives."""
        began, arrived = time.monotonic(), 0
        while chunk := answer.read1(CHUNK):
            yield chunk
            arrived += len(chunk)
            seconds = time.monotonic() - began
            if seconds > self.config.timeout and arrived < SLOWEST * seconds:
                raise _Passing(f"fewer than {SLOWEST} bytes a second for {seconds:.0f} s")

    def _too_large(self, size: str) -> BadImage:
        return BadImage(f"{size} above data.fetch.max_bytes = {self.config.max_bytes}; not read")


class _Passing(Exception):  # noqa: N818 - becomes an OSError when no try is left
    """Another try may succeed, after `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _refused(answer: urllib3.BaseHTTPResponse) -> BadImage:
    return BadImage(f"the server answered {answer.status} {answer.reason or ''}".rstrip())


def _start(answer: urllib3.BaseHTTPResponse) -> int | None:
    """Return where the part begins that a 206 answers with."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
