"""A chat endpoint on a local port that says what it is told to and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]


class Server:
    """`first` are answers (status, JSON or text) given before all others;
    then `answer(question)` is what the model says."""

    def __init__(
        self, answer: Callable[[dict[str, Any]], Any], first: tuple[Reply, ...] = ()
    ) -> None:
        self.answer, self.first = answer, list(first)
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.retry_after = ""
        self.lock = threading.Lock()
        self.most_at_once = self._now = 0
        self.url = ""

    def reply(self, question: dict[str, Any]) -> Reply:
        with self.lock:
            self.questions.append(question)
            if self.first:
                return self.first.pop(0)
        said = self.answer(question)
        return said if isinstance(said, tuple) else (200, completion(said))

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self.lock:
                self._now -= 1


def completion(text: str | None, tokens: tuple[int, int] | None = (1000, 10)) -> dict[str, Any]:
    """Return a chat completion as vLLM and OpenAI shape it."""
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]} if tokens else None
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


@contextlib.contextmanager
def serving(
    answer: Callable[[dict[str, Any]], Any], first: tuple[Reply, ...] = ()
) -> Iterator[Server]:
    """Serve until the block ends."""
    server = Server(answer, first)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with server.counted():
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                status, content = server.reply(json.loads(body))
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                if status == 429 and server.retry_after:
                    self.send_header("Retry-After", server.retry_after)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
