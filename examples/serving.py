"""Serves a model over HTTP: takes images, returns JSON or a visualization.

    pip install fastapi uvicorn python-multipart
    python examples/serving.py runs/detr_swin --port 8000
    curl --data-binary @examples/coffee.jpg "http://localhost:8000/?threshold=0.3"
    curl --data-binary @examples/coffee.jpg http://localhost:8000/drawn > drawn.jpg
    curl --form image=@examples/coffee.jpg --form image=@other.jpg http://localhost:8000/
    curl http://localhost:8000/metrics

The model is a run folder, a model file, an exported file, a checkpoint of another project or hf:ORG/NAME. In a browser,
http://localhost:8000 predicts images that are dropped on the page. A model of other channels than RGB of 8 bits takes
TIFF, PNG and NPY files with its channels. Images that wait at the same time are predicted as a batch. A form with
several files is answered with a list. Without a threshold, objects have at least the score with the largest F1 in the
model's validation, or 0.5; the answer has the thresholds. The metrics are in the text format of Prometheus.
"""

import argparse
import asyncio
import io
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, PlainTextResponse

import densevit
from densevit.channels import Channels
from densevit.data.io.file_errors import naming_file
from densevit.data.io.image_opening import open_image
from densevit.data.io.tiff_channels import opened_tiff

MAX_BYTES = 32 * 2**20  # of a request
MAX_PIXELS = 32 * 2**20  # a file of a few kilobytes can expand to gigabytes of pixels
MAX_REQUESTS = 8  # concurrent requests, including waiting ones
MAX_FILES = 8  # of a request
MAX_BATCH = 8  # images that are predicted together
MAX_SECONDS = 30.0  # for sending the images, and for waiting for the model


def pixels_of(image: bytes, channels: Channels) -> int:
    """Reads the number of pixels in the header of an image file; 0 for NPY files, which are not compressed."""
    with naming_file("the body", "image", len(image)):
        if not channels.is_rgb and image.startswith((b"II", b"MM")):
            with opened_tiff(io.BytesIO(image)) as tiff:
                return tiff.series[0].size // len(channels.names)
        if channels.is_rgb or not image.startswith(b"\x93NUMPY"):
            with open_image(io.BytesIO(image)) as opened:
                return opened.width * opened.height
    return 0


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
            labels, counts = part.semantic.unique(return_counts=True)
            shares = zip(labels.tolist(), (counts / part.semantic.numel()).tolist(), strict=True)
            content[head] = {part.classes[head][label].name: share for label, share in shares}
        else:
            content[head] = {key: [float(values.min()), float(values.max())] for key, values in part.maps.items()}
    return content


class Waiting(NamedTuple):
    """A request whose predictions are awaited. predicted: empty until then."""

    images: Sequence[bytes]
    threshold: float | None
    predicted: list[Any]


class Batches:
    """Predicts the images of all waiting requests of a threshold, in the thread of the first that gets the model."""

    def __init__(self, model: densevit.DenseModel) -> None:
        self.model, self.waiting, self.free = model, list[Waiting](), threading.Lock()
        self.counts = Counter({"batches": 0, "images": 0, "seconds": 0.0})  # so far, for the metrics

    def results(self, images: Sequence[bytes], threshold: float | None) -> list[densevit.Result]:
        """Raises HTTPException if the model is not free for MAX_SECONDS, or the error of an image or of the model."""
        request = Waiting(images, threshold, [])
        self.waiting.append(request)
        try:
            if not self.free.acquire(timeout=MAX_SECONDS):
                raise HTTPException(503, f"The model was busy for {MAX_SECONDS:g} s. Try again.")
            try:
                if not request.predicted:
                    self._predict([r for r in self.waiting if r.threshold == threshold and not r.predicted])
            finally:
                self.free.release()
        finally:
            self.waiting.remove(request)
        if errors := [image.error for image in request.predicted if image.error is not None]:
            raise errors[0]
        return [image.result for image in request.predicted]

    def _predict(self, requests: Sequence[Waiting]) -> None:
        begin, images = time.monotonic(), [image for request in requests for image in request.images]
        predicted = self.model.iterate(images, requests[0].threshold, MAX_BATCH)
        for request in requests:
            request.predicted[:] = [*islice(predicted, len(request.images))]
            self.counts["images"] += sum(image.error is None for image in request.predicted)
        self.counts.update({"batches": -(-len(images) // MAX_BATCH), "seconds": time.monotonic() - begin})


async def read_files(request: Request) -> list[bytes]:
    """Returns the files of a form (multipart/form-data), or the body of any other type."""
    if not request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        return [await request.body()]
    async with request.form(max_files=MAX_FILES) as form:
        return [await part.read() for _, part in form.multi_items() if not isinstance(part, str)]


def application(model: densevit.DenseModel, origins: Sequence[str] = ()) -> FastAPI:
    """Creates the application. origins: addresses of servers whose pages may use it (CORS); "*" for all."""
    batches, statuses, slots = Batches(model), Counter[int](), asyncio.Semaphore(MAX_REQUESTS)
    app = FastAPI(max_body_size=MAX_BYTES)
    app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        statuses[response.status_code] += 1
        return response

    async def files(request: Request) -> AsyncIterator[list[bytes]]:
        if slots.locked():
            raise HTTPException(503, f"{MAX_REQUESTS} requests are already waiting. Try again.")
        async with slots:
            try:
                read = await asyncio.wait_for(read_files(request), MAX_SECONDS)
            except asyncio.TimeoutError:
                raise HTTPException(400, f"The body was not complete after {MAX_SECONDS:g} s.") from None
            if not read:
                raise HTTPException(400, f"The form has no files; 1 to {MAX_FILES} are expected.")
            yield read

    def results(
        files: Annotated[list[bytes], Depends(files)], threshold: Annotated[float | None, Query(ge=0, le=1)] = None
    ) -> list[densevit.Result]:
        try:
            if any(pixels_of(file, model.channels) > MAX_PIXELS for file in files):
                raise HTTPException(413, f"Expected an image of at most {MAX_PIXELS:,} pixels.")
            return batches.results(files, threshold)
        except ValueError as error:  # densevit's errors are ValueErrors
            raise HTTPException(400, str(error).encode(errors="backslashreplace").decode()) from None

    @app.post("/")
    def predict(results: Annotated[list[Any], Depends(results)]) -> Any:
        return [answer(result) for result in results] if len(results) > 1 else answer(results[0])

    @app.post("/drawn")
    def drawn(results: Annotated[list[Any], Depends(results)]) -> Response:
        results[0].draw().save(file := io.BytesIO(), "JPEG")
        return Response(file.getvalue(), media_type="image/jpeg")

    def metrics(_: Request) -> Response:
        lines = [f'densevit_requests_total{{status="{status}"}} {n}\n' for status, n in sorted(statuses.items())]
        return PlainTextResponse("".join(lines + [f"densevit_{k}_total {n:g}\n" for k, n in batches.counts.items()]))

    app.add_route("/", lambda _: FileResponse(Path(__file__).with_name("serving.html")))
    app.add_route("/health", lambda _: PlainTextResponse("ok"))
    app.add_route("/metrics", metrics)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: also for other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cors", metavar="ORIGIN", nargs="*", default=[], help="servers whose pages may use this one")
    args = parser.parse_args(arguments)
    try:
        model = densevit.load(args.model, device=args.device)
    except densevit.DensevitError as error:
        raise SystemExit(str(error)) from None
    if model.device.type == "cuda":
        model.half()
    uvicorn.run(application(model, args.cors), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
