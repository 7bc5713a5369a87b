"""Serves a model over HTTP: takes images, returns JSON or a visualization.

    python examples/serving.py runs/detr_swin --port 8000
    curl --data-binary @examples/coffee.jpg "http://localhost:8000/?threshold=0.3"
    curl --data-binary @examples/coffee.jpg http://localhost:8000/drawn > drawn.jpg
    curl --form image=@examples/coffee.jpg --form image=@other.jpg http://localhost:8000/
    curl http://localhost:8000/health
    curl http://localhost:8000/metrics

The model is a run folder, a model file, an exported file, a checkpoint of another project or hf:ORG/NAME. A model of
other channels than RGB of 8 bits takes TIFF, PNG and NPY files with its channels. Images that wait at the same time are
predicted as a batch. A form with several files is answered with a list. Without a threshold, objects have at least the
score with the largest F1 in the model's validation, or 0.5; the answer has the thresholds. The metrics are in the text
format of Prometheus.
"""

import argparse
import io
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_WR
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import torch

import densevit
from densevit.channels import Channels
from densevit.data.io.file_errors import naming_file
from densevit.data.io.image_opening import open_image
from densevit.data.io.tiff_channels import opened_tiff

MAX_BYTES = 32 * 2**20  # of the files of a request
MAX_PIXELS = 32 * 2**20  # a file of a few kilobytes can expand to gigabytes of pixels
MAX_REQUESTS = 8  # concurrent requests, including waiting ones
MAX_FILES = 8  # of a request
MAX_BATCH = 8  # images that are predicted together
MAX_SECONDS = 30.0  # for sending an image, and for waiting for the model
DRAIN_SECONDS = 5.0  # for the rest of a request that is refused
NO_PAGE = "POST an image to / or /drawn."


def pixels_of(image: bytes, channels: Channels) -> int:
    """Reads the number of pixels in the header of an image file; 0 for NPY files, which are not compressed."""
    if not channels.is_rgb and image.startswith(b"\x93NUMPY"):
        return 0
    with naming_file("the body", "image", len(image)):
        if not channels.is_rgb and image.startswith((b"II", b"MM")):
            with opened_tiff(io.BytesIO(image)) as tiff:
                return tiff.series[0].size // len(channels.names)
        with open_image(io.BytesIO(image)) as opened:
            return opened.width * opened.height


def answer(result: densevit.Result) -> dict[str, Any]:
    """Returns each head's objects, its class fractions of a label map, or the range of any other map."""
    content: dict[str, Any] = {"height": result.size[0], "width": result.size[1], "thresholds": {}}
    for head, part in result.heads.items():
        if "scores" in part:
            content["thresholds"][head] = result.thresholds[head]
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


def threshold_of(query: str) -> float | None:
    """Returns the `threshold` of a query, None without one. Raises ValueError for any other parameter."""
    threshold = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "threshold" or threshold is not None:
            raise ValueError(f"The query has the parameter {name!r}; at most one `threshold` is expected.")
        try:
            threshold = float(value)
        except ValueError:
            threshold = -1.0
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {value!r}; a score from 0 to 1 is expected.")
    return threshold


def files_of(body: bytes, content_type: str) -> list[bytes]:
    """Returns the files of a form (multipart/form-data), or the body of any other type. Raises ValueError for a form
    without files or with too many."""
    if not content_type.lower().startswith("multipart/form-data"):
        return [body]
    form = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = form.iter_parts() if form.is_multipart() else ()
    contents = [part.get_payload(decode=True) for part in parts if part.get_filename() is not None]
    files = [content for content in contents if isinstance(content, bytes)]
    if not 0 < len(files) <= MAX_FILES:
        raise ValueError(f"The form has {len(files)} files; 1 to {MAX_FILES} are expected.")
    return files


class Waiting(NamedTuple):
    """An image whose result is awaited."""

    image: bytes
    threshold: float | None
    result: "Future[densevit.Result]"


class Batches:
    """A thread that predicts queued images, with one threshold per batch. Memory holds one batch at a time.

    counts: batches, images and seconds so far, for the metrics.
    """

    def __init__(self, model: densevit.DenseModel) -> None:
        self.model, self.counts = model, dict.fromkeys(("batches", "images", "seconds"), 0.0)
        self._waiting: queue.Queue[Waiting] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def results(self, images: Sequence[bytes], threshold: float | None) -> list[densevit.Result]:
        """Waits for the results. Raises CancelledError for an image not begun in MAX_SECONDS, or the model's error."""
        waiting = [Waiting(image, threshold, Future()) for image in images]
        for queued in waiting:
            self._waiting.put(queued)
        wait([queued.result for queued in waiting], MAX_SECONDS)
        for queued in waiting:
            queued.result.cancel()  # unless it has begun
        return [queued.result.result() for queued in waiting]

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            for threshold in dict.fromkeys(queued.threshold for queued in batch):
                chosen = [queued for queued in batch if queued.threshold == threshold]
                if begun := [queued for queued in chosen if queued.result.set_running_or_notify_cancel()]:
                    self._predict(begun, threshold)

    def _predict(self, batch: Sequence[Waiting], threshold: float | None) -> None:
        """Predicts a batch. The error of an unreadable image goes to its request alone."""
        begin, images = time.monotonic(), [queued.image for queued in batch]
        try:
            predictions = [*self.model.iterate(images, threshold, MAX_BATCH)]
        except Exception as error:  # of any kind: the thread has to go on
            for queued in batch:
                queued.result.set_exception(error)
            return
        readable = sum(predicted.error is None for predicted in predictions)
        for name, number in {"batches": 1, "images": readable, "seconds": time.monotonic() - begin}.items():
            self.counts[name] += number
        for queued, predicted in zip(batch, predictions, strict=True):
            if predicted.result is not None:
                queued.result.set_result(predicted.result)
            else:
                queued.result.set_exception(predicted.error)


def server(model: densevit.DenseModel, port: int, host: str = "127.0.0.1") -> ThreadingHTTPServer:
    """Creates a server for POST requests with an image as body or a form with images, and GET /health and /metrics."""
    batches = Batches(model)
    slots = threading.BoundedSemaphore(MAX_REQUESTS)
    statuses, counting = Counter[int](), threading.Lock()

    def metrics() -> str:
        """The numbers of requests by status, and of batches, images and seconds of the model."""
        with counting:
            lines = [f'densevit_requests_total{{status="{status}"}} {n}' for status, n in sorted(statuses.items())]
        lines += [f"densevit_{name}_total {number:g}" for name, number in batches.counts.items()]
        return "".join(f"{line}\n" for line in lines)

    class Handler(BaseHTTPRequestHandler):
        timeout = MAX_SECONDS  # without data from the client

        def do_GET(self) -> None:  # called by http.server
            pages, address = {"/health": "ok", "/metrics": metrics()}, urlsplit(self.path)
            page = pages.get(address.path)
            if page is not None and address.query:
                self._send(400, "text/plain", f"{address.path} has no parameters.".encode())
            else:
                self._send(200 if page else 404, "text/plain", (page or NO_PAGE).encode())

        def do_POST(self) -> None:  # called by http.server
            self.unread = 0  # bytes of the body
            if slots.acquire(blocking=False):
                try:
                    self._send(*self._reply())
                finally:
                    slots.release()
            else:
                self.unread = MAX_BYTES
                self._send(503, "text/plain", f"{MAX_REQUESTS} requests are already waiting. Try again.".encode())
            self._drain()

        def _reply(self) -> tuple[int, str, bytes]:
            """Returns status, content type and content of the response to images."""
            length, self.unread = self.headers.get("Content-Length"), MAX_BYTES
            if length is None:
                return 411, "text/plain", b"Expected a Content-Length."
            if not (length.isascii() and length.isdecimal() and 0 < len(length) < 20 and int(length)):
                return 400, "text/plain", b"Expected a positive Content-Length."
            if int(length) > MAX_BYTES:
                return 413, "text/plain", f"Expected at most {MAX_BYTES:,} bytes.".encode()
            address = urlsplit(self.path)
            if address.path not in ("/", "/drawn"):
                return 404, "text/plain", NO_PAGE.encode()
            try:
                threshold = threshold_of(address.query)
                files = files_of(self._read(int(length)), self.headers.get("Content-Type", ""))
                if address.path == "/drawn" and len(files) > 1:
                    raise ValueError(f"The form has {len(files)} files; /drawn takes one.")
                if any(pixels_of(file, model.channels) > MAX_PIXELS for file in files):
                    return 413, "text/plain", f"Expected an image of at most {MAX_PIXELS:,} pixels.".encode()
                results = batches.results(files, threshold)
            except CancelledError:
                return 503, "text/plain", f"The model was busy for {MAX_SECONDS:g} s. Try again.".encode()
            except ValueError as error:  # densevit's errors are ValueErrors
                return 400, "text/plain", str(error).encode(errors="backslashreplace")
            except Exception as error:  # of the model or its runtime, such as too little memory: it is answered too
                return 500, "text/plain", str(error).encode(errors="backslashreplace")
            if address.path == "/drawn":
                file = io.BytesIO()
                results[0].draw().save(file, "JPEG")
                return 200, "image/jpeg", file.getvalue()
            answers = [answer(result) for result in results]
            return 200, "application/json", json.dumps(answers if len(files) > 1 else answers[0]).encode()

        def _read(self, length: int) -> bytes:
            """Reads the body. Raises ValueError if it is shorter than `length` or takes longer than MAX_SECONDS."""
            self.unread = 0
            content, end = bytearray(), time.monotonic() + MAX_SECONDS
            while len(content) < length and time.monotonic() < end:
                try:
                    part = self.rfile.read1(length - len(content))
                except OSError:  # nothing for `timeout`, or a closed connection
                    break
                if not part:
                    break
                content += part
            if len(content) < length:
                raise ValueError(f"The body has {len(content)} of {length} bytes.")
            return bytes(content)

        def _send(self, status: int, content_type: str, content: bytes) -> None:
            with counting:
                statuses[status] += 1
            try:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError as error:  # a closed connection, or nothing read for `timeout`
                self.log_error("The client did not take its answer: %s", error)

        def _drain(self) -> None:
            """Reads and drops a body that was not read: closing the connection before would reset it, and the client
            could lose the answer."""
            end = time.monotonic() + DRAIN_SECONDS
            with suppress(OSError):
                self.connection.shutdown(SHUT_WR)  # the client sees the end of the answer
                self.connection.settimeout(DRAIN_SECONDS)
                while self.unread > 0 and time.monotonic() < end and (part := self.rfile.read1(2**16)):
                    self.unread -= len(part)

    return ThreadingHTTPServer((host, port), Handler)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: also for other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    try:
        model = densevit.load(args.model, device=args.device)
    except densevit.DensevitError as error:
        raise SystemExit(str(error)) from None
    if model.device.type == "cuda":
        model.half()
    with server(model, args.port, args.host) as serving:
        print(f"http://{serving.server_name}:{serving.server_port}")
        serving.serve_forever()


if __name__ == "__main__":
    main()
