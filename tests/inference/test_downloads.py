"""Downloads of images: bounds of size and time."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from densevit.errors import DataError
from densevit.inference import array_inputs, downloads
from tests.written_files import encoded

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


PNG = encoded(PIXELS)


class Server(BaseHTTPRequestHandler):
    """/endless has no length."""

    def do_GET(self) -> None:  # named by http.server
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b"x")
                time.sleep(0.1)
            return
        self.send_response(404 if self.path == "/gone.png" else 200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/png")
        self.end_headers()
        if self.path == "/endless":
            for _ in range(1000):
                self.wfile.write(bytes(2**12))
        self.wfile.write(PNG[:200] if self.path == "/cut.png" else PNG)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has ended
            super().handle()


def serving(host: str) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer((host, 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    yield from serving("127.0.0.1")


def address(server: ThreadingHTTPServer) -> str:
    return f"http://{server.server_address[0]}:{server.server_port}"  # type: ignore[str-bytes-safe]


@pytest.mark.parametrize(
    ("path", "limits", "message"),
    [
        ("endless", {"URL_BYTES": 2**16}, "endless: the server sends more than 65,536 bytes, the lim"),
        ("slow", {"URL_SECONDS": 0.5}, "slow cannot be downloaded: not complete after 0.5 s"),
        ("gone.png", {}, "gone.png.*404 Not Found"),
        ("page", {}, "page.*text/html, not an image"),
        ("cut.png", {}, "cut.png.*cannot be read"),
    ],
)
def test_a_wrong_url_and_a_bound_of_size_or_time_is_an_error_that_names_the_url(
    path: str, limits: dict[str, float], message: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(downloads, name, value)
    begin = time.monotonic()
    with pytest.raises(DataError, match=rf"{address(server)}/{message}"):
        array_inputs.as_sample(f"{address(server)}/{path}", 0)
    assert time.monotonic() - begin < 3, "of 5 seconds that the slow one takes"
