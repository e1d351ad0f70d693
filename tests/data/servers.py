"""Servers on this machine for tests: an S3 store, and a web server whose answers a test writes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def s3(bucket: str) -> Iterator[tuple[Any, str]]:
    """Start an S3 server with one bucket; give its client and the query that names it in a URI."""
    import boto3
    from moto.server import ThreadedMotoServer

    credentials()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    try:
        yield client, f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    finally:
        server.stop()


def credentials() -> None:
    """Put what an S3 server of a test asks for into the environment."""
    for name, value in {
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        os.environ.setdefault(f"AWS_{name}", value)


def upload(client: Any, bucket: str, folder: Path, prefix: str) -> None:
    """Copy a local folder below a prefix of a bucket."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.put_object(
            Bucket=bucket, Key=f"{prefix}/{file.relative_to(folder)}", Body=file.read_bytes()
        )


@contextlib.contextmanager
def web(answers: dict[str, Answer]) -> Iterator[str]:
    """Serve paths by functions; give the server's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                answers.get(self.path, missing)(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def content(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """Answer with this body; `length` is what Content-Length claims,
    -1 leaves it out and closes the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length == -1:
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        if length is not None:
            handler.close_connection = True

    return answer


missing = content(b"no", 404)
