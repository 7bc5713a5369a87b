"""Predictions per image as a few words, which `densevit predict` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from densevit.interfaces import Class, TargetType
from densevit.targets.types import as_array

if TYPE_CHECKING:
    from densevit.inference.result import Result


@runtime_checkable
class SupportsText(Protocol):
    """A target type per image whose predictions `densevit predict` prints."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction in a few words; None: prints nothing."""


def text_of(target: TargetType, value: Any, classes: Sequence[Class]) -> str | None:
    """`SupportsText.text` of a prediction; None for other target types."""
    return target.text(value, classes) if isinstance(target, SupportsText) else None


def text_of_image(result: "Result") -> str:
    """The predictions per image as text, such as "cat 0.93"; "" without any."""
    texts = []
    for head, predictions in result.predictions.items():
        types = result.types[head]
        values = {
            key: as_array(value) for key, value in predictions.items() if key in types and types[key].per == "image"
        }
        words = (text_of(types[key], value, result.classes[head]) for key, value in values.items())
        texts.append(" ".join(filter(None, words)))
    return "; ".join(filter(None, texts))
