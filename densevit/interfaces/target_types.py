"""The interface of target types. Methods that only a tool calls are protocols: docs/own-target.md."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from densevit.interfaces.canvases import Drawing
from densevit.interfaces.data_types import Class, Size, Window


class TargetType:
    """The type of a target key: transforms values with their image, draws, writes and reads them.

    Values are numpy arrays here, tensors in samples and batches. Values (N, ...) of an image's objects are "object",
    maps (..., H, W) are "pixel"; any other value is "image". Instances are stateless; options go to the constructor.

    per: what a value belongs to. Values per object are selected together.
    task: the task whose classes the values refer to; None: no classes.
    truth_only: used by evaluators only; transforms drop it.
    under_zoom: how `resize` changes values by the zoom. "divide" is for metric depth: an enlarged object looks nearer,
        as with a longer focal length. "multiply" is for inverse depth, and "keep" for other values. Predictions at
        another image size than in the training's evaluation are converted back.
    fill: the value of new pixels at the border, for maps. layer: drawn over types of lower layers.
    supersedes: keys of the same head that are not drawn, because this type shows them.
    max_classes: the largest number of classes in values; None: any. A model cannot be built if its head needs the key
        and has more classes.

    Example:
        >>> class Angle(densevit.TargetType):
        ...     def hflip(self, value, size): return -value
        >>> Angle().hflip(30, size=(64, 96))
        -30
    """

    per: ClassVar[Literal["image", "object", "pixel"]] = "image"
    task: str | None = None
    truth_only: bool = False
    under_zoom: Literal["divide", "multiply", "keep"] = "keep"
    fill: float = 0
    layer: int = 0
    supersedes: ClassVar[tuple[str, ...]] = ()
    max_classes: ClassVar[int | None] = None

    def check(self, value: Any, size: Size) -> None:
        """Raises DataError for a wrong shape, type or range. The message continues "image 7: boxes "."""

    def check_classes(self, value: Any, num_classes: int) -> None:
        """Raises DataError for class indices outside of 0 ... num_classes - 1, for a value that `check` accepts.

        num_classes: the number of classes of `task`, at least 1. Default: accepts any value.
        """

    def implausible(self, values: Sequence[tuple[Any, Size]], num_classes: int) -> str:
        """Returns what is probably wrong with the values of several images, such as boxes from 0 to 1; "" if nothing.

        The text continues "boxes ". Called once for the first images that are seen. values: the values, and the size
        (h, w) of the image of each. num_classes: the number of classes of `task`; 0: unknown. Default: "".
        """
        return ""

    def hflip(self, value: Any, size: Size) -> Any:
        """The value of the horizontally flipped image. size: (h, w) of the image."""
        return value

    def rotate(self, value: Any, matrix: np.ndarray, size: Size) -> Any:
        """The value of the rotated image. matrix: (2, 3), maps coordinates of pixel centres from the old to the new."""
        return value

    def crop(self, value: Any, window: Window, size: Size) -> Any:
        """The value of the cropped image. For objects, the window may extend beyond the image."""
        return value

    def resize(self, value: Any, size: Size, new_size: Size, zoom: float = 1.0) -> Any:
        """The value of the resized image. zoom: the scale of its sides relative to evaluation."""
        return value

    def clip(self, value: Any, size: Size) -> Any:
        """The value clipped to its image, before and after the transforms."""
        return value

    def usable(self, value: Any, size: Size) -> np.ndarray | None:
        """For objects: the rows, (N,) bool, that are usable for training, before any transform. None: all."""
        return None

    def visible(self, value: Any, size: Size) -> np.ndarray | None:
        """For objects: the rows, (N,) bool, inside the image after the transforms. None: unknown for this type."""
        return None

    def collate(self, values: Sequence[Any], size: Size, device: Any = None) -> Any:
        """A batch of values (tensors, or None where unlabelled), padded to a grid of this size. Default: the sequence.

        For losses of heads. device: the device of the result; None: the device of the values.
        """
        return values

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws predictions[key], and truth[key] if labelled. All values are arrays. Default: nothing."""

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> Any:
        """A prediction in the form for files.

        For objects: columns of COCO's results format, by name an array of numbers, (N,) or (N, K), or a list of N JSON
        values. For pixels: by suffix (".png", ".npy", ".json") a PIL image, an array or JSON values. For images: a JSON
        value. None: writes nothing.
        """
        return None

    def decode(self, encoded: Any, classes: Sequence[Class]) -> Any:
        """Inverse of `encode`: a value from the dicts of all objects, from files by suffix, or from a JSON value."""
        raise NotImplementedError(f"{type(self).__name__} does not implement decode().")
