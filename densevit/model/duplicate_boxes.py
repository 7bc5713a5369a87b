"""Removal of duplicate boxes from the predictions of heads that were trained to need none."""

from collections.abc import Mapping

from densevit.config import InferenceSection
from densevit.interfaces import Predictions
from densevit.layers.nms import class_nms

ByHead = dict[str, list[Predictions]]


def without_duplicates(predictions: ByHead, inference: Mapping[str, InferenceSection] | None) -> ByHead:
    """Class-wise NMS of each image's objects, for the heads whose options in `inference` have an IoU `nms`."""
    for name, options in (inference or {}).items():
        for i, values in enumerate(predictions[name] if options.nms is not None else ()):
            kept = class_nms(values["boxes"], values["scores"], values["labels"], options.nms)
            predictions[name][i] = {key: value[kept] for key, value in values.items()}
    return predictions
