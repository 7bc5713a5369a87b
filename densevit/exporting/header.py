"""The header of an exported file: JSON for programs that use the file, and for `densevit evaluate`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

from densevit import config as configs
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit.weights import model_file


@runtime_checkable
class SupportsNms(Protocol):
    """A head whose exported `boxes` need class-wise non-maximum suppression; the header describes it.

    nms: IoU above which a box is a duplicate. max_predictions: the largest number of objects in an image.
    """

    nms: float
    max_predictions: int


def header_of(
    model: DenseModel, canvas: Size | None, resize: bool, thresholds: Mapping[str, float] | None
) -> dict[str, Any]:
    """Metadata for users of the file: classes and NMS of each head, and the evaluation size; and for
    `inference.engine`, which builds the heads. thresholds: each head's score threshold in a file with
    post-processing; None without. The entry `images` is a `densevit.channels.Channels`.
    """
    sections, transforms = configs.single_pass(model_file.sections_of(model)), model.resize
    necks: dict[str, Any] = dict(model.necks.items())
    heads = {}
    for name, head in model.heads.items():
        features = necks.get(name, model.backbone)
        heads[name] = {
            "task": getattr(head, "task", None),
            "classes": [asdict(c) for c in model.classes[name]],
            "nms": {"iou": head.nms, "max_predictions": head.max_predictions}
            if thresholds is None and isinstance(head, SupportsNms)
            else None,
            "channels": [*features.channels],
            "strides": [*features.strides],
        }
    return {
        "model": model_file.entries(model, sections),
        "backbone": {"channels": [*model.backbone.channels], "strides": [*model.backbone.strides]},
        "heads": heads,
        "images": asdict(model.channels),
        "evaluation_size": {} if transforms is None else transforms.evaluation_bounds(),
        "canvas": canvas,
        "input_size": model.backbone.input_size,
        "resize": resize,
        "postprocess": None if thresholds is None else {"thresholds": dict(thresholds)},
        "half": None,
    }
