"""Serves an exported file over HTTP with ONNX Runtime, without densevit and PyTorch.

    pip install fastapi uvicorn onnxruntime numpy pillow
    densevit export runs/detr_swin --resize --postprocess --out detector.onnx
    python examples/serve_onnx.py detector.onnx 8000
    curl --data-binary @examples/coffee.jpg "http://localhost:8000/?threshold=0.3"

Answers with the objects of each head above the file's or this score threshold, the shares of classes of a label map, or
the range of any other map.
"""

import io
import json
import sys
from typing import Annotated, Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image, ImageOps

MAX_BYTES = MAX_PIXELS = 32 * 2**20  # of a request and of an image


def application(path: str) -> FastAPI:
    """Creates the application for a file of `densevit export --resize --postprocess`."""
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # it would keep the memory of each image size
    session = onnxruntime.InferenceSession(path, options)
    header = json.loads(session.get_modelmeta().custom_metadata_map["densevit"])
    names = [output.name for output in session.get_outputs()]
    defaults = [*header["postprocess"]["thresholds"].values()]
    app = FastAPI(max_body_size=MAX_BYTES)

    def predict(file: bytes, threshold: float | None) -> dict[str, Any]:
        try:
            image = Image.open(io.BytesIO(file))
            if image.width * image.height > MAX_PIXELS:
                raise HTTPException(413, f"Expected an image of at most {MAX_PIXELS:,} pixels.")
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)[None]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise HTTPException(400, "The body is not an image that Pillow reads.") from None
        thresholds = np.array(defaults if threshold is None else [threshold] * len(defaults), np.float32)
        inputs = {"images": pixels} | ({"thresholds": thresholds} if defaults else {})
        outputs = dict(zip(names, session.run(names, inputs), strict=True))
        answer: dict[str, Any] = {}
        for head, entry in header["heads"].items():
            values = {key.removeprefix(f"{head}/"): value for key, value in outputs.items()}
            classes = [c["name"] for c in entry["classes"]]
            if "boxes" in values:
                rows = zip(*(values[key].tolist() for key in ("labels", "scores", "boxes")), strict=True)
                answer[head] = [{"name": classes[label], "score": score, "box": box} for label, score, box in rows]
            elif "semantic" in values:
                labels, counts = np.unique(values["semantic"], return_counts=True)
                answer[head] = dict(zip((classes[i] for i in labels), (counts / counts.sum()).tolist(), strict=True))
            else:
                answer[head] = {key: [float(map_.min()), float(map_.max())] for key, map_ in values.items()}
        return answer

    @app.post("/")
    async def post(request: Request, threshold: Annotated[float | None, Query(ge=0, le=1)] = None) -> dict[str, Any]:
        return await run_in_threadpool(predict, await request.body(), threshold)

    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]))
