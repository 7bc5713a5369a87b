"""A detection function for CVAT's `cvat-cli task auto-annotate` and its agents.

    cvat-cli task auto-annotate 17 --function-module densevit_tools.cvat -p model=str:runs/detr_swin

cvat-cli calls `create` with the parameters of `-p` (cvat_sdk, `auto_annotation`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import cvat_sdk.auto_annotation as cvat
import numpy as np
from cvat_sdk.masks import encode_mask
from PIL import Image

import densevit
from densevit.errors import ConfigError
from densevit.targets.mask_polygons import polygons_of
from densevit_tools.regions import Region, regions_of

Shape = Literal["rectangle", "polygon", "mask", "tag"]
_SHAPES = ("rectangle", "polygon", "mask", "tag")


class DetectionFunction:
    """A detection function of CVAT. spec: the model's classes, with the type of their shapes.

    shape: rectangles, polygons, masks or, of classifiers, tags; "": what the model predicts. Raises ConfigError for
    another shape, and for a model that predicts no classes.
    """

    def __init__(self, model: densevit.DenseModel, shape: Shape | Literal[""] = "") -> None:
        if shape not in ("", *_SHAPES):
            raise ConfigError(f"shape is {shape!r}; expected one of {', '.join(_SHAPES)}.")
        self.model, self.names = model, list(dict.fromkeys(c.name for cs in model.classes.values() for c in cs))
        if not self.names:
            raise ConfigError("The model predicts no classes. Expected one with objects, label maps or image classes.")
        self.shape = shape or _predicted_shape(model)
        labels = [cvat.label_spec(name, i, type=self.shape) for i, name in enumerate(self.names)]
        self.spec = cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: cvat.DetectionFunctionContext, image: Image.Image) -> Sequence[Any]:
        """Returns the objects of an image with at least the context's score, or else the model's threshold."""
        result = self.model.predict(image, context.conf_threshold)
        shape = "polygon" if self.shape == "mask" and context.conv_mask_to_poly else self.shape
        return [entry for region in regions_of(result) for entry in self._annotations(region, shape)]

    def _annotations(self, region: Region, shape: str) -> list[Any]:
        label = self.names.index(region.name)
        if region.box is None:
            return [cvat.tag(label)] if shape == "tag" else []
        if shape == "rectangle":
            return [cvat.rectangle(label, region.box.tolist())]
        if region.mask is None:
            return []
        if shape == "polygon":
            outlines = polygons_of(region.mask.astype(np.uint8))
            return [cvat.polygon(label, outline) for outline in outlines]
        return [cvat.mask(label, encode_mask(region.mask))]


def create(model: str, shape: Shape | Literal[""] = "", device: str = "auto") -> DetectionFunction:
    """Loads a model. model: a run, a file or a name. shape: "" chooses it by the head."""
    return DetectionFunction(densevit.load(model, device), shape)


def _predicted_shape(model: densevit.DenseModel) -> Shape:
    """The shape of a model's regions, from a prediction on a black image."""
    result = model.predict(model.blank_images(1, (64, 64))[0])
    keys = {key for outputs in result.predictions.values() for key in outputs}
    if keys & {"masks", "panoptic", "semantic"}:
        return "mask"
    return "rectangle" if "boxes" in keys else "tag"
