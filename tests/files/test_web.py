"""Web servers: limits while they stream, and no way to the machine's own services."""

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from raylabel.dataset.images import ImageError, ImageReader
from raylabel.errors import InputError
from raylabel.files.reading import TooLargeError, read_bytes
from raylabel.files.web import is_own_machine

ENDLESS = 64 * 2**20


class Server(ThreadingHTTPServer):
    """A server on loopback that keeps the paths it was asked for, and whether a client hung up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []
        self.hung_up = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Serve 5 bytes, or many bytes without telling how many."""

    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        if self.path == "/small.jpg":
            self.send_header("Content-Length", "5")
        self.end_headers()
        try:
            for _ in range(1 if self.path == "/small.jpg" else ENDLESS // 2**16):
                self.wfile.write(b"image" if self.path == "/small.jpg" else bytes(2**16))
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_stream_ends_at_the_limit(server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}"
    assert read_bytes(f"{url}/small.jpg", max_bytes=5) == b"image"
    with pytest.raises(TooLargeError):
        read_bytes(f"{url}/small.jpg", max_bytes=4)
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="more than 1048576 bytes"):
        read_bytes(f"{url}/endless.jpg", max_bytes=2**20)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < ENDLESS / 4
    assert server.hung_up.wait(10), "the server must not send the rest"


def test_other_stores_end_at_the_limit_too() -> None:
    fsspec.filesystem("memory").pipe("/limited/a.jpg", bytes(100))
    assert read_bytes("memory://limited/a.jpg", max_bytes=100) == bytes(100)
    with pytest.raises(TooLargeError):
        read_bytes("memory://limited/a.jpg", max_bytes=99)


def test_names_that_lead_to_the_machine_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more))
    url = f"http://innocent.test:{server.server_port}/small.jpg"
    with pytest.raises(InputError, match=r"leads to 127\.0\.0\.1"):
        read_bytes(url)
    with pytest.raises(ImageError, match=r"unreadable URI: .*leads to 127\.0\.0\.1"):
        ImageReader(max_pixels=100).read(url)
    assert server.paths == []


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001"])
def test_other_spellings_of_the_machine_itself(server: Server, host: str) -> None:
    with pytest.raises(ImageError, match="unreadable URI"):
        ImageReader(max_pixels=100).read(f"http://{host}:{server.server_port}/small.jpg")
    assert server.paths == []


@pytest.mark.parametrize("uri", ["zip://a.png::/tmp/x.zip", "reference::https://h/a.json", "simplecache::s3://b/a"])
def test_chains_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="chain of file systems"):
        read_bytes(uri)


@pytest.mark.parametrize("host", ["10.0.0.1", "images.org", "8.8.8.8", "", "127.0.0.1.org", "2001:db8::1"])
def test_other_hosts_are_not_the_machine_itself(host: str) -> None:
    assert not is_own_machine(host)
