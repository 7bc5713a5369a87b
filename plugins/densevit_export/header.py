"""The header of an exported file: JSON for programs that use the file, and for `densevit evaluate`."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from densevit.config import InferenceSection, ModelSections
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit.model.tiled_detection import SupportsMaxPredictions
from densevit.weights import model_file
from densevit_export.runtimes import FORMAT, silenced

Sections = TypeVar("Sections", bound=ModelSections)


def header_of(
    model: DenseModel, canvas: Size | None, resize: bool, thresholds: Mapping[str, float] | None
) -> dict[str, Any]:
    """Metadata for users of the file: classes and NMS of each head, and the evaluation size; and for
    `engine`, which builds the heads. thresholds: each head's score threshold in a file with
    post-processing; None without. The entry `images` is a `densevit.channels.Channels`.
    """
    sections, transforms = single_pass(model_file.sections_of(model)), model.resize
    necks: dict[str, Any] = dict(model.necks.items())
    heads = {}
    for name, head in model.heads.items():
        features = necks.get(name, model.backbone)
        heads[name] = {
            "task": getattr(head, "task", None),
            "classes": [asdict(c) for c in model.classes[name]],
            "nms": {"iou": head.nms, "max_predictions": head.max_predictions}
            if thresholds is None and head.nms is not None and isinstance(head, SupportsMaxPredictions)
            else None,
            "channels": [*features.channels],
            "strides": [*features.strides],
        }
    return {
        "format_version": FORMAT,
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


def append_entry(path: Path, name: str, content: Any) -> None:
    """Writes JSON into the zip archive at the end of a file, which its runtime does not read; the last entry of a name
    counts."""
    with silenced(), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, json.dumps(content))


def single_pass(sections: Sections) -> Sections:
    """The sections with the inference options of prediction in one pass: only `nms`."""
    heads = {
        name: head.model_copy(update={"inference": head.inference and InferenceSection(nms=head.inference.nms)})
        for name, head in sections.heads.items()
    }
    return sections.model_copy(update={"heads": heads, "inference": InferenceSection(nms=sections.inference.nms)})
