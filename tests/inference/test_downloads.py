"""Downloads of images: bounds of size and time, and redirects that a server chooses."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.errors import DataError
from densevit.inference import downloads, image_inputs

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PNG = png_of(PIXELS)


class Server(BaseHTTPRequestHandler):
    """/to/ADDRESS redirects there; /endless has no length; /drip sends a byte of its head every 0.1 s."""

    def do_GET(self) -> None:  # named by http.server
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/drip":
            for byte in b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 500:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
            return
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b"x")
                time.sleep(0.1)
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/late.png":
            time.sleep(1)
        self.send_response(404 if self.path == "/gone.png" else 200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/png")
        if self.path == "/announced":
            self.send_header("Content-Length", str(10**12))
        elif self.path == "/cut":
            self.send_header("Content-Length", "100000")
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
    server.paths = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    yield from serving("127.0.0.1")


@pytest.fixture
def inner() -> Iterator[ThreadingHTTPServer]:
    yield from serving("127.0.0.2")


def address(server: ThreadingHTTPServer) -> str:
    return f"http://{server.server_address[0]}:{server.server_port}"  # type: ignore[str-bytes-safe]


def test_an_address_of_this_machine_and_its_redirects_are_read(
    server: ThreadingHTTPServer, inner: ThreadingHTTPServer
) -> None:
    assert downloads.download(f"{address(server)}/image.png") == PNG
    assert downloads.download(f"{address(server)}/to/{address(inner)}/image.png") == PNG


def test_a_public_server_does_not_redirect_into_the_network(
    server: ThreadingHTTPServer, inner: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1")
    url = f"{address(server)}/to/{address(inner)}/latest/meta-data"
    with pytest.raises(DataError, match=r"redirects to 127\.0\.0\.2, an address of this machine or its network"):
        image_inputs.as_sample(url, 0)
    assert not inner.paths, "no request was sent"  # type: ignore[attr-defined]
    again = f"{address(server)}/to/{address(server)}/image.png"
    assert downloads.download(again) == PNG


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("172.16.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("::1", False), ("fe80::1%eth0", False), ("fd00::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
    ],
)  # fmt: skip
def test_public_addresses(ip: str, public: bool) -> None:
    assert downloads.is_public(ip) is public


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:{port}/a.png", "file:///etc/passwd", "data:image/png;base64,AA=="])
def test_redirects_to_other_schemes_are_refused(target: str, server: ThreadingHTTPServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ftp:
        ftp.settimeout(0.2)
        target = target.format(port=ftp.getsockname()[1])
        with pytest.raises(
            DataError,
            match=r"/to/.*(redirects to ftp.*; only http and https are allowed|Redirection to url .* is not allowed)",
        ):
            image_inputs.as_sample(f"{address(server)}/to/{target}", 0)
        with pytest.raises(TimeoutError):
            ftp.accept()


@pytest.mark.parametrize("path", ["announced", "endless"])
def test_a_download_has_a_largest_size(path: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "URL_BYTES", 2**16)
    with pytest.raises(DataError, match=rf"{address(server)}/{path}: the server sends more than 65,536 bytes, the lim"):
        image_inputs.as_sample(f"{address(server)}/{path}", 0)


@pytest.mark.parametrize("path", ["slow", "drip"])
def test_a_download_has_a_longest_time(path: str, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "URL_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(DataError, match=rf"/{path} cannot be downloaded: it is not complete after 0.5 s"):
        image_inputs.as_sample(f"{address(server)}/{path}", 0)
    assert time.monotonic() - begin < 3


def test_an_incomplete_download_is_named(server: ThreadingHTTPServer) -> None:
    with pytest.raises(DataError, match=r"/cut cannot be downloaded: IncompleteRead"):
        image_inputs.as_sample(f"{address(server)}/cut", 0)
