"""Predicts with an ONNX file of `densevit export`, without densevit and PyTorch.

    python examples/onnx_predict.py model.onnx examples/coffee.jpg

It needs onnxruntime, numpy and Pillow. It resizes as in evaluation, unless the file does (`--resize`), and removes
duplicates if the head needs it: it is for files without `--postprocess`. Without `--resize`, the image size may differ
by a few pixels from the one of `densevit predict`.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def suppressed(
    boxes: np.ndarray, scores: np.ndarray, nms: dict[str, Any] | None, threshold: float
) -> list[tuple[int, int]]:
    """(box, class) indices of scores from the threshold, best first; with nms, without duplicates in a class."""
    pairs = sorted(zip(*np.nonzero(scores >= threshold), strict=True), key=lambda pair: -scores[pair])
    kept: list[tuple[int, int]] = []
    for i, label in pairs:
        if not nms or all(iou(boxes[i], boxes[j]) <= nms["iou"] for j, other in kept if other == label):
            kept.append((i, label))
    return kept[: nms["max_predictions"]] if nms else kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    overlap = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap)


session = onnxruntime.InferenceSession(sys.argv[1])
header = json.loads(session.get_modelmeta().custom_metadata_map["densevit"])
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
width, height = image.size
if not header["resize"]:  # otherwise the file resizes
    sides = {"height": height, "width": width, "short_side": min(image.size), "long_side": max(image.size)}
    bounds = header["evaluation_size"]
    scale = min((bound / sides[key] for key, bound in bounds.items() if key in sides), default=1)
    size = [max(1, round(side * scale)) for side in image.size]
    if "exact_height" in bounds:
        size = [bounds["exact_width"], bounds["exact_height"]]
    image = image.resize(size, Image.Resampling.BILINEAR)
zoom = np.tile([width / image.width, height / image.height], 2)  # to pixels of the original image
pixels = np.asarray(image).transpose(2, 0, 1)[None]  # (1, 3, H, W) uint8
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(None, {"images": pixels}), strict=True))
thresholds = json.loads((header["model"] or {}).get("score_thresholds", "{}"))  # of the model's validation
for name, head in header["heads"].items():
    values = {key.removeprefix(f"{name}/"): value[0] for key, value in outputs.items()}
    classes = [entry["name"] for entry in head["classes"]]
    if "boxes" in values:
        for i, label in suppressed(values["boxes"], values["scores"], head["nms"], thresholds.get(name, 0.5)):
            print(classes[label], values["scores"][i, label], (values["boxes"][i] * zoom).round(1).tolist())
    if "semantic" in values:
        for label, count in zip(*np.unique(values["semantic"], return_counts=True), strict=True):
            print(classes[label], f"{count / values['semantic'].size:.1%}")
