"""The part of the hub's interface that a push uses, on a local port; it keeps what it is sent."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """One user `me` with a token; `files` of the datasets, by repository and path."""

    def __init__(self, token: str) -> None:
        self.token, self.url = token, ""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    def answer(self, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Return status and JSON of one request."""
        path = path.partition("?")[0]
        self.asked.append(path)
        if path == "/api/agent-harnesses":
            return 200, {}
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        return self._of_repository(path, body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if asked.get("organization", "me") != "me":
            return 403, {"error": "You don't have the rights to create a dataset there"}
        repo = f"me/{asked['name']}"
        there = repo in self.repositories
        self.repositories.setdefault(repo, asked)
        self.files.setdefault(repo, {})
        return (409 if there else 200), {"url": f"{self.url}/datasets/{repo}"}

    def _of_repository(self, path: str, body: bytes) -> tuple[int, Any]:
        _, _, _, user, name, *verbs = path.split("/")
        if not verbs:
            return 404, {"error": "Repository not found"}
        files, verb = self.files[f"{user}/{name}"], verbs[0]
        if verb == "tree":
            return 200, [{"type": "file", "path": each, "size": len(content), "oid": "0" * 40}
                         for each, content in files.items()]  # fmt: skip
        if verb == "preupload":
            asked = json.loads(body)["files"]
            return 200, {"files": [{"path": each["path"], "uploadMode": "regular",
                                    "shouldIgnore": False} for each in asked]}  # fmt: skip
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                files[line["value"]["path"]] = content
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        oid = "0" * 40
        url = f"{self.url}/datasets/{user}/{name}/commit/{oid}"
        return 200, {"commitUrl": url, "commitOid": oid, "success": True}


@contextlib.contextmanager
def hub(token: str) -> Iterator[Hub]:
    """Serve until the block ends."""
    served = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self._body()
            status, tree = served.answer(self.path, self.headers.get("Authorization", ""), body)
            content = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        served.url = f"http://127.0.0.1:{http.server_address[1]}"
        try:
            yield served
        finally:
            http.shutdown()
            thread.join()
