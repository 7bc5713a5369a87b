"""FiftyOne's labels of results, and a model for `dataset.apply_model`.

dataset.apply_model(densevit_tools.fiftyone.model("runs/detr_swin"), label_field="densevit", batch_size=8)
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiftyone
import numpy as np

import densevit
from densevit import Result
from densevit.targets.types import as_array
from densevit_tools.regions import Region, regions_of


class Model(fiftyone.Model):
    """A model of FiftyOne. config: its `confidence_thresh` is the least score; None: the model's."""

    media_type, ragged_batches, transforms, preprocess = "image", False, None, False

    def __init__(self, model: densevit.DenseModel) -> None:
        self.model, self.config = model, SimpleNamespace(confidence_thresh=None)

    def predict(self, arg: np.ndarray) -> Any:
        """The labels of an image (H, W, 3) (`detections`)."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[np.ndarray]) -> list[Any]:
        """The labels of each image."""
        return [detections(result) for result in self.model.predict([*args], self.config.confidence_thresh)]


def model(source: str | Path | densevit.DenseModel, device: str = "auto") -> Model:
    """A model for `apply_model`. source: a model, or a source of `densevit.load`."""
    return Model(densevit.load(source, device) if isinstance(source, str | Path) else source)


def detections(result: Result) -> Any:
    """FiftyOne's label of a result: Detections, with masks if there are any, of objects and panoptic segments; a
    Segmentation of a label map, with class indices from 1; a Heatmap of depth; a Classification. Of several heads, a
    dict by head."""
    labels = {head: _label(part) for head, part in result.heads.items()}
    return labels if len(labels) > 1 else next(iter(labels.values()))


def _label(result: Result) -> Any:
    if "panoptic" in result or "labels" in result:
        return fiftyone.Detections(detections=[_detection(region, result.size) for region in regions_of(result)])
    if "semantic" in result:
        indices = as_array(result.semantic).astype(np.uint16) + 1
        return fiftyone.Segmentation(mask=indices.astype(np.uint8) if indices.max() < 256 else indices)
    if "image_class" in result:
        [region] = regions_of(result)
        return fiftyone.Classification(label=region.name, confidence=region.score)
    [values] = result.maps.values()
    return fiftyone.Heatmap(map=(array := as_array(values)), range=[float(array.min()), float(array.max())])


def _detection(region: Region, size: tuple[int, int]) -> Any:
    """A detection with a box relative to the image (h, w), and a mask inside of the box in whole pixels."""
    assert region.box is not None
    x0, y0, x1, y1 = region.box.tolist()
    mask = None
    if region.mask is not None:
        ys, xs = np.nonzero(region.mask)
        x0, y0, x1, y1 = (int(side) for side in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        mask = region.mask[y0:y1, x0:x1]
    box = [x0 / size[1], y0 / size[0], (x1 - x0) / size[1], (y1 - y0) / size[0]]
    return fiftyone.Detection(label=region.name, bounding_box=box, mask=mask, confidence=region.score)
