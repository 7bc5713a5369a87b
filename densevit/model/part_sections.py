"""The sections and the classes of a model that is built from modules."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from densevit.config import ModelSections, model_sections
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, Class, Head, Neck, as_classes

LossWeight = float | Literal["learned"]


def sections_of_parts(
    backbone: Backbone, heads: Mapping[str, Head], necks: Mapping[str, Neck], loss_weights: Mapping[str, LossWeight]
) -> ModelSections:
    """The sections that build a model of these modules again. necks, loss_weights: those of the heads."""
    return model_sections(
        {
            "backbone": {"name": backbone, "channels": backbone.image_channels},
            "heads": {
                x: {"name": head, "neck": necks.get(x), "loss_weight": loss_weights[x]} for x, head in heads.items()
            },
        },
        "model",
    )


def name_classes(model: Any, classes: Mapping[str, Sequence[Class]]) -> None:
    """Names the classes of a `DenseModel` as in the data or the file that it is used with, by head. Raises ConfigError
    unless it has the same classes, or their number alone."""
    for name, head in model.heads.items():
        names, expected = ([c.name for c in listed] for listed in (head.classes, classes[name]))
        if names not in (expected, [c.name for c in as_classes(len(expected))]):
            raise ConfigError(
                f"heads.{name} has the classes {', '.join(names)}; expected {', '.join(expected)}. Fix: "
                f"create_model(..., classes={expected})."
            )
        head.classes = model.classes[name] = tuple(classes[name])
