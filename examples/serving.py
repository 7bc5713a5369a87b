"""Serves a model over HTTP: takes an image, returns JSON or a visualization.

    python examples/serving.py runs/detr_swin --port 8000
    curl --data-binary @street.jpg "http://localhost:8000/?threshold=0.5"
    curl --data-binary @street.jpg http://localhost:8000/drawn > drawn.jpg
    curl http://localhost:8000/health

The model is a run folder, a model file, a checkpoint of another project or hf:ORG/NAME.
"""

import argparse
import io
import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

import densevit
from densevit.data.io.file_errors import naming_file
from densevit.data.io.large_images import open_image

MAX_BYTES = 32 * 2**20  # of an image file
MAX_PIXELS = 32 * 2**20  # a file of a few kilobytes can expand to gigabytes of pixels
MAX_REQUESTS = 8  # concurrent requests, including waiting ones
MAX_SECONDS = 30.0  # for sending an image, and for waiting for the model


def pixels_of(image: bytes) -> int:
    """Returns the number of pixels from the header of an image file, without decoding it."""
    with naming_file("the body", "image", len(image)), open_image(io.BytesIO(image)) as opened:
        return opened.width * opened.height


def answer(result: densevit.Result) -> dict[str, Any]:
    """Returns the objects of each head, the fraction of pixels of each class in label maps, and the range of other
    maps."""
    content: dict[str, Any] = {"height": result.size[0], "width": result.size[1]}
    for head, part in result.heads.items():
        if "boxes" in part:
            objects = zip(part.names, part.scores.tolist(), part.boxes.tolist(), strict=True)
            content[head] = [{"name": name, "score": score, "box": box} for name, score, box in objects]
        elif "semantic" in part:
            pixels = torch.bincount(part.semantic.flatten().long(), minlength=len(part.classes[head])).tolist()
            total = part.semantic.numel()
            content[head] = {c.name: n / total for c, n in zip(part.classes[head], pixels, strict=False) if n}
        else:
            content[head] = {key: [float(values.min()), float(values.max())] for key, values in part.maps.items()}
    return content


def server(predictor: densevit.Predictor, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Creates a server for POST requests with an image as body, and GET /health."""
    lock = threading.Lock()  # the model processes one image at a time, which limits memory
    slots = threading.BoundedSemaphore(MAX_REQUESTS)

    class Handler(BaseHTTPRequestHandler):
        timeout = MAX_SECONDS  # without data from the client

        def do_GET(self) -> None:  # called by http.server
            healthy = urlsplit(self.path).path == "/health"
            self._send(200 if healthy else 404, "text/plain", b"ok" if healthy else b"POST an image to / or /drawn.")

        def do_POST(self) -> None:  # called by http.server
            if not slots.acquire(blocking=False):
                self._send(503, "text/plain", f"{MAX_REQUESTS} images are already waiting. Try again.".encode())
                return
            try:
                self._send(*self._reply())
            finally:
                slots.release()

        def _reply(self) -> tuple[int, str, bytes]:
            """Returns status, content type and content of the response to an image."""
            length = self.headers.get("Content-Length")
            if length is None:
                return 411, "text/plain", b"Expected a Content-Length."
            if not (length.isascii() and length.isdecimal() and 0 < len(length) < 20 and int(length)):
                return 400, "text/plain", b"Expected a positive Content-Length."
            if int(length) > MAX_BYTES:
                return 413, "text/plain", f"Expected an image of at most {MAX_BYTES:,} bytes.".encode()
            address = urlsplit(self.path)
            try:
                threshold = float(parse_qs(address.query).get("threshold", ["0.5"])[0])
                image = self._read(int(length))  # outside the lock: a slow client would block the others
                if pixels_of(image) > MAX_PIXELS:
                    return 413, "text/plain", f"Expected an image of at most {MAX_PIXELS:,} pixels.".encode()
                if not lock.acquire(timeout=MAX_SECONDS):
                    return 503, "text/plain", f"The model was busy for {MAX_SECONDS:g} s. Try again.".encode()
                try:
                    result = predictor.predict(image, threshold=threshold)
                finally:
                    lock.release()
            except ValueError as error:  # densevit's errors are ValueErrors
                return 400, "text/plain", str(error).encode(errors="backslashreplace")
            if address.path == "/drawn":
                file = io.BytesIO()
                result.draw().save(file, "JPEG")
                return 200, "image/jpeg", file.getvalue()
            return 200, "application/json", json.dumps(answer(result)).encode()

        def _read(self, length: int) -> bytes:
            """Reads the body. Raises ValueError if it is shorter than `length` or takes longer than MAX_SECONDS."""
            content, end = b"", time.monotonic() + MAX_SECONDS
            while len(content) < length and time.monotonic() < end:
                part = self.rfile.read1(length - len(content))
                if not part:
                    break
                content += part
            if len(content) < length:
                raise ValueError(f"The body has {len(content)} of {length} bytes.")
            return content

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return ThreadingHTTPServer((host, port), Handler)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    predictor = densevit.load(args.model, device=args.device)
    if predictor.device.type == "cuda":
        predictor.half()
    with server(predictor, args.port) as serving:
        print(f"http://{serving.server_name}:{serving.server_port}")
        serving.serve_forever()


if __name__ == "__main__":
    main()
