"""The results of an inspection: similarity and attention of a model on one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from densevit_workbench.inspection.attention_layers import AttentionLayer
from densevit_workbench.inspection.figures import Figure


@dataclass(frozen=True)
class ObjectAttention:
    """The attention of a head for one detected object.

    name, label: the object's class. box: xyxy in pixels of the inspected image. map: (h, w), the attention.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]
    map: Tensor


@dataclass(repr=False)
class InspectionFields:
    """The fields of an `Inspection`."""

    image: np.ndarray
    point: tuple[float, float]
    similarity: Tensor | None = None
    layers: Sequence[AttentionLayer] = ()
    distances: Mapping[str, Tensor] = field(default_factory=dict)
    objects: Mapping[str, Sequence[ObjectAttention]] = field(default_factory=dict)
    figures: Mapping[str, Sequence[Figure]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The size and the names of the layers, without arrays."""
        height, width = self.size
        return f"Inspection({width} x {height}, layers: {', '.join(layer.name for layer in self.layers) or 'none'})"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[0], self.image.shape[1]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        return {
            "size": list(self.size),
            "point": list(self.point),
            "layers": [
                {
                    "name": layer.name,
                    "grid": list(layer.query_grid),
                    "key_grid": list(layer.key_grid),
                    "window": layer.window,
                    "heads": layer.weights.shape[1],
                    "mean_attention_distance": self.distances[layer.name].tolist(),
                }
                for layer in self.layers
            ],
            "objects": {
                head: [
                    {"name": detected.name, "score": detected.score, "box": list(detected.box)} for detected in objects
                ]
                for head, objects in self.objects.items()
            },
        }
