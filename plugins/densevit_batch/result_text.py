"""Predictions per image as a few words, which `densevit predict` prints."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from densevit.interfaces import Class, Predictions, TargetType
from densevit.targets.types import TargetTypes, as_array


@runtime_checkable
class SupportsText(Protocol):
    """A target type per image whose predictions `densevit predict` prints."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction in a few words; None: prints nothing."""


def text_of(target: TargetType, value: Any, classes: Sequence[Class]) -> str | None:
    """`SupportsText.text` of a prediction; None for other target types."""
    return target.text(value, classes) if isinstance(target, SupportsText) else None


def text_of_image(
    predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[Class]], types: Mapping[str, TargetTypes]
) -> str:
    """The predictions per image of all heads as text, such as "cat 0.93"; "" without any."""
    texts = []
    for head, outputs in predictions.items():
        per_image = [key for key in outputs if key in types[head] and types[head][key].per == "image"]
        words = (text_of(types[head][key], as_array(outputs[key]), classes[head]) for key in per_image)
        texts.append(" ".join(filter(None, words)))
    return "; ".join(filter(None, texts))
