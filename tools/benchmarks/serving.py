"""Load on `examples/serving.py` for some minutes: requests a second, latency, and the memory of the server.

Half of the clients send images of several sizes one after another, some as forms of several. The others send wrong
requests: no image, a cut body, many pixels in few bytes, a body that ends after a second, connections that are closed
at once. After each tenth of the time a line has the requests by status, quantiles of the seconds of answered images,
and the server's memory. The command fails if the server does not answer at the end.

    python tools/benchmarks/serving.py runs/detr_swin --minutes 10
"""

import argparse
import io
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples/serving.py"
SIZES = ((120, 160), (480, 640), (640, 480), (1080, 1920))
TIMEOUT = 60.0  # seconds, of a request
BOUNDARY = "densevit"


def image_file(size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A JPEG of a smooth random image."""
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def form(files: list[bytes]) -> bytes:
    """The body of a form with these files."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


def bomb() -> bytes:
    """A PNG whose header has 400 million pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + empty


class Load:
    """Clients of a server, until `stop` is set. statuses and seconds: of the requests since the last report."""

    def __init__(self, port: int) -> None:
        self.port, self.stop = port, threading.Event()
        self.statuses, self.seconds, self.lock = Counter[str](), list[float](), threading.Lock()

    def request(self, body: bytes, kind: str = "image/jpeg", path: str = "") -> str:
        """Sends a request. Returns its status, or the name of the error."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                reply.read()
                return str(reply.status)
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError as error:
            return type(error).__name__

    def raw(self, content: bytes, wait: float) -> None:
        """Sends bytes on a connection and closes it after some seconds."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
                connection.sendall(content)
                time.sleep(wait)
        except OSError:
            pass  # the server may close first

    def right(self, seed: int) -> None:
        """A client with images, alone, drawn, and as forms."""
        rng = np.random.default_rng(seed)
        files = [image_file(size, rng) for size in SIZES]
        while not self.stop.is_set():
            chosen = [files[n] for n in rng.integers(len(files), size=3)]
            begin = time.monotonic()
            status = (
                self.request(chosen[0], path="drawn" if rng.random() < 0.2 else "")
                if rng.random() < 0.7
                else self.request(form(chosen), f"multipart/form-data; boundary={BOUNDARY}")
            )
            with self.lock:
                self.statuses[status] += 1
                if status == "200":
                    self.seconds.append(time.monotonic() - begin)

    def wrong(self, seed: int) -> None:
        """A client with what is no image, and slow or closed connections."""
        rng = np.random.default_rng(seed)
        head = b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n"
        image = image_file(SIZES[1], rng)
        while not self.stop.is_set():
            case = int(rng.integers(6))
            if case < 3:
                status = self.request([b"no image", image[: len(image) // 2], bomb()][case])
                with self.lock:
                    self.statuses[f"wrong {status}"] += 1
            else:
                self.raw([head + b"few bytes", b"", head + b"x" * 5000][case - 3], [1.0, 0.0, 0.0][case - 3])
            time.sleep(0.1)

    def report(self) -> str:
        """Requests by status and quantiles of the seconds since the last report."""
        with self.lock:
            statuses, seconds = dict(sorted(self.statuses.items())), self.seconds
            self.statuses, self.seconds = Counter(), []
        quantiles = np.quantile(seconds, [0.5, 0.95, 1]) if seconds else [float("nan")] * 3
        return f"{statuses}, seconds at 50, 95, 100 %: {', '.join(f'{value:.2f}' for value in quantiles)}"


def memory(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), args.model, "--port", str(args.port)], stderr=subprocess.DEVNULL
    ) as server:
        try:
            load = Load(args.port)
            while load.request(b"") == "URLError":
                if server.poll() is not None:
                    raise SystemExit("The server ended at its start.")
                time.sleep(0.5)
            clients = [
                threading.Thread(target=load.wrong if n % 2 else load.right, args=(n,)) for n in range(args.clients)
            ]
            for client in clients:
                client.start()
            for tenth in range(1, 11):
                time.sleep(args.minutes * 6)
                print(f"{tenth * 10:3} % {memory(server.pid):7.0f} MiB  {load.report()}", flush=True)
            load.stop.set()
            for client in clients:
                client.join()
            time.sleep(1)
            status = load.request(image_file(SIZES[0], np.random.default_rng(0)))
            with urllib.request.urlopen(f"http://127.0.0.1:{args.port}/metrics", timeout=TIMEOUT) as reply:
                print(reply.read().decode())
        finally:
            server.terminate()
    if status != "200":
        raise SystemExit(f"The server answers an image with {status} after the load; 200 is expected.")


if __name__ == "__main__":
    main()
