"""An S3 server on loopback, and a proxy in front of it that fails and hangs like an overloaded store."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

# Variables that a user of such a store sets. The server does not check the keys.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Start moto's server in a separate process, and yield its endpoint, such as http://127.0.0.1:12345."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | CREDENTIALS,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{endpoint}/moto-api/")
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=30)


def make_bucket(endpoint: str, name: str) -> None:
    """Create an empty bucket without the code under test."""
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT"), timeout=30).close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _wait_for(url: str, *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class FlakyProxy:
    """A proxy that answers every `fail_every`th request with 503 and never answers every `hang_every`th.

    It waits `delay_seconds` before it passes on a request.

    Attributes:
        endpoint: URL of the proxy.
        num_requests, num_failed, num_hung: counts of all, failed and hung requests.
        fail_every: period of failed requests; may be changed.
        down_after: number of requests after which every request fails with 503; None for never.
    """

    def __init__(
        self,
        target: str,
        *,
        fail_every: int = 0,
        hang_every: int = 0,
        hang_seconds: float = 30,
        delay_seconds: float = 0,
    ) -> None:
        self.delay_seconds = delay_seconds
        self._host = target.removeprefix("http://")
        self.fail_every, self._hang_every, self._hang_seconds = fail_every, hang_every, hang_seconds
        self._lock = threading.Lock()
        self.num_requests = self.num_failed = self.num_hung = 0
        self.down_after: int | None = None
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FlakyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fate(self) -> str:
        """Decide the next request's fate: "pass", "fail" or "hang"."""
        with self._lock:
            self.num_requests += 1
            if self._hang_every and self.num_requests % self._hang_every == 0:
                self.num_hung += 1
                return "hang"
            is_down = self.down_after is not None and self.num_requests > self.down_after
            if is_down or (self.fail_every and self.num_requests % self.fail_every == 0):
                self.num_failed += 1
                return "fail"
            return "pass"


_OF_THE_CONNECTION = ("connection", "transfer-encoding", "expect", "content-length")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ClassVar[FlakyProxy]

    def _answer(self) -> None:
        body = self._body()
        fate = self.owner.fate()
        if fate == "hang":
            time.sleep(self.owner._hang_seconds)
            self.close_connection = True
            return
        if fate == "fail":
            self.send_response(503, "Slow Down")
            content = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            headers = [("Content-Length", str(len(content)))]
        else:
            time.sleep(self.owner.delay_seconds)
            upstream = http.client.HTTPConnection(self.owner._host, timeout=60)
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
            upstream.request(self.command, self.path, body, sent | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status, answer.reason)
            headers = [one for one in answer.getheaders() if one[0].lower() not in ("connection", "transfer-encoding")]
            if not answer.getheader("Content-Length"):
                headers.append(("Content-Length", str(len(content))))
            upstream.close()
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # because the client may have given up
                self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Log nothing."""
