"""Load on `examples/serving.py` for some minutes: answers, latency, and the memory of the server.

The clients are of four kinds in turn: images of several sizes one after another, some as forms of several; images that
are sent and whose answers are read in small parts; wrong requests (no image, a cut image, many pixels in few bytes, an
unknown parameter); connections that are closed in the middle of a body or before the answer. After each tenth of the
time a line has the requests by status, quantiles of the seconds of answered images, and the server's memory. The last
line has the numbers of requests and of answers. The command fails if an answer is missing, or has a status that is
neither the expected one nor 503.

    python tools/benchmarks/serving.py runs/detr_swin --minutes 10
"""

import argparse
import http.client
import io
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples/serving.py"
SIZES = ((120, 160), (480, 640), (640, 480), (1080, 1920))
TIMEOUT = 60.0  # seconds, of a request
BOUNDARY = "densevit"
BUSY = "503"  # the answer while too many requests wait
PART, PAUSE = 2000, 0.2  # bytes and seconds of slow clients


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


def parts(body: bytes) -> list[bytes]:
    """A body in small parts."""
    return [body[start : start + PART] for start in range(0, len(body), PART)]


def bomb() -> bytes:
    """A PNG whose header has 400 million pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + empty


FILES = [image_file(size, np.random.default_rng(0)) for size in SIZES]


class Load:
    """Clients of a server, until `stop` is set.

    statuses and seconds: of the requests since the last report. sent, answered: the requests whose clients wait for an
    answer, and those with the expected status or 503.
    """

    def __init__(self, port: int) -> None:
        self.port, self.stop = port, threading.Event()
        self.statuses, self.seconds, self.lock = Counter[str](), list[float](), threading.Lock()
        self.sent = self.answered = 0

    def request(self, body: bytes, kind: str = "image/jpeg", path: str = "", slow: bool = False) -> str:
        """Sends a request, slowly in parts. Returns the status of the complete answer, or the name of the error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.putrequest("POST", f"/{path}")
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            for part in parts(body) if slow else (body,):
                connection.send(part)
                time.sleep(PAUSE if slow else 0)
            reply = connection.getresponse()
            while slow and reply.read(PART):
                time.sleep(PAUSE)
            reply.read()
            return str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()

    def counted(self, client: str, expected: str, body: bytes, **options: Any) -> None:
        """Sends a request, and counts it."""
        begin, status = time.monotonic(), self.request(body, **options)
        with self.lock:
            self.sent += 1
            self.answered += status in (expected, BUSY)
            self.statuses[f"{client} {status}"] += 1
            if client == "images":
                self.seconds.append(time.monotonic() - begin)

    def images(self, rng: np.random.Generator) -> None:
        """Images, alone, drawn, and as forms."""
        chosen = [FILES[n] for n in rng.integers(len(FILES), size=3)]
        if rng.random() < 0.7:
            self.counted("images", "200", chosen[0], path="drawn" if rng.random() < 0.2 else "")
        else:
            self.counted("images", "200", form(chosen), kind=f"multipart/form-data; boundary={BOUNDARY}")

    def slow(self, rng: np.random.Generator) -> None:
        """An image in small parts, whose drawing is read in small parts."""
        self.counted("slow", "200", FILES[rng.integers(2)], path="drawn", slow=True)

    def wrong(self, rng: np.random.Generator) -> None:
        """No image, a cut one, many pixels, an unknown parameter."""
        case = int(rng.integers(4))
        body = [b"no image", FILES[1][: len(FILES[1]) // 2], bomb(), FILES[3]][case]
        self.counted("wrong", "413" if case == 2 else "400", body, path="?size=640" if case == 3 else "")
        time.sleep(0.1)

    def broken(self, rng: np.random.Generator) -> None:
        """A connection that is closed at once, in a body, or before the answer; some are reset."""
        content = [b"", FILES[1][:500], FILES[1]][int(rng.integers(3))]
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            if rng.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if content:
                connection.sendall(
                    f"POST /drawn HTTP/1.1\r\nContent-Length: {len(FILES[1])}\r\n\r\n".encode() + content
                )
            time.sleep(rng.random())
        with self.lock:
            self.statuses["broken"] += 1

    def run(self, number: int) -> None:
        """A client, by its number."""
        rng = np.random.default_rng(number)
        client = (self.images, self.slow, self.wrong, self.broken)[number % 4]
        while not self.stop.is_set():
            client(rng)

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
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    with subprocess.Popen(
        [sys.executable, str(EXAMPLE), args.model, "--port", str(args.port)], stderr=subprocess.DEVNULL
    ) as server:
        try:
            load = Load(args.port)
            while load.request(b"") == "ConnectionRefusedError":
                if server.poll() is not None:
                    raise SystemExit("The server ended at its start.")
                time.sleep(0.5)
            print(f"start {memory(server.pid):7.0f} MiB", flush=True)
            clients = [threading.Thread(target=load.run, args=(n,)) for n in range(args.clients)]
            for client in clients:
                client.start()
            for tenth in range(1, 11):
                time.sleep(args.minutes * 6)
                print(f"{tenth * 10:3} % {memory(server.pid):7.0f} MiB  {load.report()}", flush=True)
            load.stop.set()
            for client in clients:
                client.join()
            time.sleep(1)
            load.counted("last", "200", FILES[0])
            print(f"end   {memory(server.pid):7.0f} MiB  {load.report()}", flush=True)
            with urllib.request.urlopen(f"http://127.0.0.1:{args.port}/metrics", timeout=TIMEOUT) as reply:
                print(reply.read().decode())
        finally:
            server.terminate()
    print(f"{load.sent:,} requests, {load.answered:,} with the expected answer or 503.")
    if load.answered < load.sent:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
