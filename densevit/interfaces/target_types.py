"""The interface of target types, and of the canvas on which they draw."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from densevit.interfaces.data_types import Class, Color, Size, Window


class Canvas(Protocol):
    """An image that a `TargetType` draws on. Coordinates are in pixels of the original image."""

    def overlay(self, colors: np.ndarray, mask: np.ndarray) -> None:
        """Blends colours (H, W, 3) uint8 with the image where mask (H, W) is True."""

    def segments(self, ids: np.ndarray, colors: Mapping[int, Color], names: Mapping[int, str]) -> None:
        """Blends the segments of a map of ids (H, W) with the image, with outlines, and names inside.

        Pixels whose id has no colour are left as they are. Segments of one colour have different shades.
        """

    def boxes(self, boxes: np.ndarray, colors: Sequence[Color], texts: Sequence[tuple[str, str]]) -> None:
        """Outlines boxes (N, 4) xyxy, the first on top. texts: (name, suffix); only the name is shortened."""

    def points(self, points: np.ndarray, color: Color) -> None:
        """Draws discs at points (N, 2)."""

    def lines(self, lines: np.ndarray, color: Color) -> None:
        """Draws line segments (N, 2, 2), from point to point."""

    def caption(self, name: str, suffix: str, color: Color) -> None:
        """Writes a label in the upper left corner; only the name is shortened."""


class Drawing(Protocol):
    """Drawing surfaces for a `TargetType`: the image with the predictions, and with the ground truth if given."""

    @property
    def prediction(self) -> Canvas:
        """The image on which predictions are drawn."""

    @property
    def truth(self) -> Canvas | None:
        """The image on which ground truth is drawn; None without ground truth."""

    def legend(self, classes: Sequence[Class]) -> None:
        """Adds the classes to the legend below the image."""

    def panel(self, caption: str, pixels: np.ndarray) -> None:
        """Adds an image (H, W, 3) uint8 beside the others."""

    def value_maps(
        self, prediction: np.ndarray, truth: np.ndarray | None, unit: str = "m", inverse: bool = False
    ) -> None:
        """Adds maps (H, W) in colours with colour bars, and the relative error. 0 and non-finite values are unknown.

        inverse: the prediction is relative inverse depth, which is aligned to the ground truth by least squares.
        """

    def error_map(self, wrong: np.ndarray, ignored: np.ndarray) -> None:
        """Adds the image in pale grey with wrong pixels (H, W) in red and ignored ones in black."""


class AnnotatedImage(NamedTuple):
    """An image with an encoded map. image: its id, file_name, width and height. name: the path of the map's files,
    without suffix, relative to their folder. encoded: the ".json" of `TargetType.encode`."""

    image: Mapping[str, Any]
    name: str
    encoded: Any


class TargetType:
    """The type of a target key: how its values are transformed with their image, drawn, written and read.

    Values are numpy arrays here, tensors in samples and batches. An object with (N, ...) values per image is "object",
    a map (..., H, W) is "pixel"; any other value is "image". Instances are stateless; options go to the constructor.

    per: what a value belongs to. Values per object are selected together.
    task: the task whose classes the values refer to; None if they refer to none.
    truth_only: used by evaluators only, so transforms drop it.
    fill: the value of new pixels at the border, for maps. layer: drawn over the types of lower layers.
    supersedes: keys of the same head that are not drawn, because this type shows them.
    max_classes: the largest number of classes that values can hold; None: any number. A model cannot be built if its
        head needs the key and has more classes.
    """

    per: ClassVar[Literal["image", "object", "pixel"]] = "image"
    task: str | None = None
    truth_only: bool = False
    fill: float = 0
    layer: int = 0
    supersedes: ClassVar[tuple[str, ...]] = ()
    max_classes: ClassVar[int | None] = None

    def check(self, value: Any, size: Size) -> None:
        """Raises DataError for a wrong shape, type or range. The message continues "image 7: boxes "."""

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        """Like `check`, for a predicted value, which must be finite and in original pixels. Default: `check`."""
        self.check(value, size)

    def usable(self, value: Any, size: Size) -> np.ndarray | None:
        """Per object: which rows, (N,) bool, can be used for training, before any transform. None: all."""
        return None

    def clip(self, value: Any, size: Size) -> Any:
        """The value clipped to its image, before and after the transforms."""
        return value

    def hflip(self, value: Any, size: Size) -> Any:
        """The value of the horizontally flipped image. size: (h, w) of the image."""
        return value

    def rotate(self, value: Any, matrix: np.ndarray, size: Size) -> Any:
        """The value of the rotated image. matrix: (2, 3), maps coordinates of pixel centres from the old to the new."""
        return value

    def crop(self, value: Any, window: Window, size: Size) -> Any:
        """The value of the cropped image. Per object, the window may extend beyond the image."""
        return value

    def resize(self, value: Any, size: Size, new_size: Size, zoom: float = 1.0) -> Any:
        """The value of the resized image. zoom: the scale of its sides relative to evaluation."""
        return value

    def visible(self, value: Any, size: Size) -> np.ndarray | None:
        """Per object: which rows, (N,) bool, are inside the image after the transforms. None: unknown for this type."""
        return None

    def paste(self, value: Any, pasted: Any, covered: np.ndarray) -> Any:
        """The value of an image on which objects of a second one are pasted (`data.copy_paste`).

        pasted: the value of the second image; per object, only of the pasted objects. covered: (h, w) bool, the pixels
        that they cover. Maps of the second image are (h, w) too, at the upper left of the first image, which is not
        smaller. Types without this method cannot be used with copy-paste.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement paste().")

    def mix(self, value: Any, other: Any, share: float) -> Any:
        """The value of an image that is mixed with a second one (`data.mixup`, `data.cutmix`).

        other: the value of the second image. share: the share of the first image in the mixture, from 0 to 1. Types
        without this method cannot be used with MixUp and CutMix.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement mix().")

    def class_map(self, value: Any) -> np.ndarray | None:
        """Class indices (H, W) uint8, 255 = none, from which transforms choose crops with several classes. Default: the
        value, for a type per pixel with a task; None for others.
        """
        return value if self.per == "pixel" and self.task else None

    def map_classes(self, value: Any, table: np.ndarray, classes: Sequence[Class]) -> Any:
        """The value with other class indices, to evaluate a model on data of other classes. Default: unchanged, for
        values without class indices.

        table: (K,) int64, the new index of each class; -1: none. classes: the new classes. For values per object,
        returns the new indices (N,); objects of class -1 are removed with all their values. In maps, pixels of no class
        have the value `fill`.
        """
        return value

    def collate(self, values: Sequence[Any], size: Size, device: Any = None) -> Any:
        """A batch of values, tensors or None where unlabelled, padded to a grid of this size. Default: the sequence.

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
        """Draws predictions[key], and truth[key] if it is labelled. All values are arrays. Default: nothing."""

    def text(self, value: Any, classes: Sequence[Class]) -> str | None:
        """A prediction per image as a few words, which `densevit predict` prints. Default: None, nothing is printed."""
        return None

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> Any:
        """A prediction as it is written to files. Per object: a dict of JSON values for each object, a part of its
        entry in COCO's results format. Per pixel: by suffix (".png", ".npy", ".json") a PIL image, an array or JSON
        values. Per image: a JSON value. None: nothing is written.
        """
        return None

    def value_range(self, value: np.ndarray, size: Size) -> float:
        """The range of predicted values of images of this size, by which differences between a model and its exported
        file are measured. Default: from the smallest to the largest finite value; 1 if they are equal.
        """
        finite = value[np.isfinite(value)]
        return (float(finite.max() - finite.min()) if finite.size else 0.0) or 1.0

    def annotation_file(self, images: Sequence[AnnotatedImage], classes: Sequence[Class]) -> Any:
        """Per pixel: JSON values for all images together, written as KEY.json beside the folder KEY of their maps, in
        place of one ".json" per image. None: one ".json" per image is written.
        """
        return None

    def decode(self, encoded: Any, classes: Sequence[Class]) -> Any:
        """Inverse of `encode`: a value from the dicts of all objects, from files by suffix, or from a JSON value."""
        raise NotImplementedError(f"{type(self).__name__} does not implement decode().")

    def unlabelled(self, size: Size) -> Sequence[Any]:
        """Values that label nothing: a loss and an evaluator treat them like a missing key, also at single pixels.
        `densevit check` tests heads with them. Default: none.
        """
        return ()

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> Any:
        """A valid random value, with which `densevit check` tests heads. objects: the number of objects; with 0, maps
        have no labelled pixel.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement random().")
