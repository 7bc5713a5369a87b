"""Serves a model over HTTP: an image in, JSON or a drawn image out.

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
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

import densevit

MAX_BYTES = 32 * 2**20  # of an image


def answer(result: densevit.Result) -> dict[str, Any]:
    """The objects and the maps of each head. A label map is the fraction of pixels of each class."""
    found: dict[str, Any] = {"height": result.size[0], "width": result.size[1]}
    for head, own in result.heads.items():
        if "boxes" in own:
            objects = zip(own.names, own.scores.tolist(), own.boxes.tolist(), strict=True)
            found[head] = [{"name": name, "score": score, "box": box} for name, score, box in objects]
        elif "semantic" in own:
            pixels = torch.bincount(own.semantic.flatten().long(), minlength=len(own.classes[head])).tolist()
            total = own.semantic.numel()
            found[head] = {c.name: n / total for c, n in zip(own.classes[head], pixels, strict=False) if n}
        else:
            found[head] = {key: [float(values.min()), float(values.max())] for key, values in own.maps.items()}
    return found


def server(predictor: densevit.Predictor, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """A server that answers POST requests with an image as their body, and GET /health."""
    lock = threading.Lock()  # one image at a time on the model, which bounds the memory

    class Handler(BaseHTTPRequestHandler):
        timeout = 30.0  # seconds without a byte from a client

        def do_GET(self) -> None:  # named by http.server
            known = urlsplit(self.path).path == "/health"
            self._send(200 if known else 404, "text/plain", b"ok" if known else b"POST an image to / or /drawn.")

        def do_POST(self) -> None:  # named by http.server
            address = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= MAX_BYTES:
                self._send(413, "text/plain", f"Expected an image of at most {MAX_BYTES} bytes.".encode())
                return
            try:
                threshold = float(parse_qs(address.query).get("threshold", ["0.5"])[0])
                image = self.rfile.read(length)  # not within the lock: a slow client would block the others
                with lock:
                    result = predictor.predict(image, threshold=threshold)
            except ValueError as error:  # densevit's errors are ValueErrors
                self._send(400, "text/plain", str(error).encode())
                return
            if address.path == "/drawn":
                file = io.BytesIO()
                result.draw().save(file, "JPEG")
                self._send(200, "image/jpeg", file.getvalue())
            else:
                self._send(200, "application/json", json.dumps(answer(result)).encode())

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
