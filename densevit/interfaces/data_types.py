"""The data that plugins exchange."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor

from densevit.errors import DataError, has_surrogates

Color = tuple[int, int, int]

VOID = -1  # panoptic id of pixels without a segment
LABEL_DIVISOR = 1000  # panoptic id = class index * LABEL_DIVISOR + instance number


@dataclass(frozen=True)
class Class:
    """A class of a data set. densevit uses class indices 0 ... K-1 in the data set's order.

    Example:
        >>> road = densevit.Class("road", file_id=7, color=(128, 64, 128), thing=False)
        >>> densevit.create_evaluator("segmentation", [road]).classes[0].name
        'road'
    """

    name: str
    file_id: int  # id in annotation files (COCO: 1 ... 90), also in prediction files and evaluation
    color: Color  # RGB, 0 ... 255
    thing: bool = True  # countable ("thing"); False for "stuff"

    def __post_init__(self) -> None:
        if isinstance(self.name, str) and has_surrogates(self.name):
            raise DataError(
                f"The class {self.name!r} (id {self.file_id}) contains half of a surrogate pair, which text files "
                "cannot hold. Fix: correct the name where the classes are listed."
            )


Classes = int | Sequence[Class | str]
"""The classes of a head: names, or their number, of classes "0", "1", ..."""


def as_classes(classes: Classes) -> tuple[Class, ...]:
    """`Class`es with indices as file ids, and distinct colours, for names and for a number of classes."""
    listed = [str(i) for i in range(classes)] if isinstance(classes, int) else classes
    return tuple(c if isinstance(c, Class) else Class(str(c), i, color_of(i)) for i, c in enumerate(listed))


def color_of(index: int) -> Color:
    """A colour for a class index. Consecutive colours differ in hue, by the golden ratio, and in brightness."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, (0.85, 0.6)[index % 2], (1.0, 0.8, 0.9)[index % 3])
    return round(red * 255), round(green * 255), round(blue * 255)


Targets = dict[str, Any]
"""Labels of one image, at the size of that image. A missing key means "not labelled", never "empty".

boxes: (N, 4) float32, absolute xyxy in pixels. labels: (N,) int64. masks: `densevit.RunLengthMasks` of N, also in
heads; a loss that needs pixels calls `to(device)`, (N, H, W) bool.
semantic: (H, W) uint8, 255 = ignore. panoptic: (H, W) int32 panoptic ids, class index * 1000 + instance number, -1 =
void. panoptic_crowds: a list of the panoptic ids of crowds. depth: (H, W) float32 in metres, 0 = invalid. focal: the
camera's focal length in pixels of the image, for heads of a canonical camera.
labelled: a list of the names of the classes that are labelled in the image, if not all are; heads get (K,) bool of
their classes. area: (N,), as annotated. iscrowd: (N,) bool. Boxes and area may be float64, for evaluation.
image_id: int or str. size: (h, w) without padding. original_size: (h, w) of the file.
truth: the unmodified targets of the data set in original pixels, in validation only; there `size` equals
`original_size`.

Each key has a `TargetType`. A value under a key without a type must not depend on cropping, resizing or flipping: a
string, a single number, None, a list of strings, or a dict of these, which is passed through unchanged. A tensor, an
array or a list of numbers there is an error.
"""


Outputs = dict[str, Any]
"""Outputs of a head for a padded batch: `logits`, `boxes`, `masks`, `depth`, and others that its loss needs."""


Losses = dict[str, Tensor]
"""Weighted scalar loss terms; their sum is minimised."""


Predictions = dict[str, Any]
"""Predictions for one image in original pixels: boxes xyxy, scores, labels, semantic, panoptic, depth, masks.

masks: (N, H, W) bool on the device, where heads resize and threshold logits, and select, merge and compare pixels.
Evaluators and files convert them to run lengths.
"""


Table = Sequence[Sequence[str | int | float]]
"""Rows; the first is the header."""


@dataclass(frozen=True)
class Plot:
    """Curves over common axes. x, y: the labels of the axes. curves: points (x, y) by the curve's name, in order of x.

    unit_axes: whether both axes range from 0 to 1.
    """

    x: str
    y: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    unit_axes: bool = False


Size = tuple[int, int]
"""Height and width in pixels."""


Window = tuple[int, int, int, int]
"""Top, left, bottom and right of a crop, in whole pixels."""


class Sample(TypedDict):
    """One image with its targets. image: (C, H, W) of the channels and type of the data set; 8-bit RGB by default."""

    image: Tensor
    targets: Targets


class _Batch(TypedDict):
    images: Tensor
    padding_mask: Tensor
    targets: list[Targets]


class Batch(_Batch, total=False):
    """images: (B, C, H, W) of the data set's type, padded to one size. padding_mask: (B, H, W) bool, True = padding.

    skipped: the reason for each image left out because its file cannot be read. Absent if there is none.
    other_views: batches of a training method of several views: one of the second views of the images, one of the
        third views, and so on, each padded to its size. Absent with one view.
    """

    other_views: "list[Batch]"
    skipped: list[str]


@dataclass(frozen=True)
class OptimizerStep:
    """The batches of one optimiser step, which averages their gradients. targets: the targets of each batch; they stay
    on the CPU, where losses count their normalisers before the first forward pass."""

    batches: tuple[Batch, ...]
    targets: tuple[list[Targets], ...]

    @classmethod
    def of(cls, *batches: Batch) -> "OptimizerStep":
        """The step of some batches."""
        return cls(batches, tuple(batch["targets"] for batch in batches))

    @property
    def image_ids(self) -> list[int | str]:
        """The ids of the images in this process."""
        return [target.get("image_id", index) for targets in self.targets for index, target in enumerate(targets)]


def image_id(target: Targets) -> int | str:
    """The image id of a target."""
    value = target["image_id"]
    return value if isinstance(value, str) else int(value)
