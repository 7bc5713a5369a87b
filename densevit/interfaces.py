"""What a plugin is: `Backbone`, `Neck`, `Head`, `Dataset` and `Evaluator`, and the words that pass between them.

A plugin author reads this file and needs no other. `docs/own-backbone.md` and `docs/own-head.md` walk through one from
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np
from torch import Tensor, nn

from densevit.losses.segmentation import IGNORE as IGNORE  # the `semantic` label that is neither learnt nor counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Class:
    """One class of a data set. Inside densevit a class is its index, 0 ... K-1, in the data set's own order."""

    name: str
    file_id: int  # the id that files use (COCO's 1 ... 90); it comes back in predictions' files and in evaluation
    color: tuple[int, int, int]  # RGB, 0 ... 255
    thing: bool = True  # countable; a surface ("stuff") where not


Targets = dict[str, Any]
"""Labels of one image, on the grid of that image. A key that is absent means "not labelled", never "empty".

boxes: (N, 4) float32, absolute xyxy in pixels. labels: (N,) int64. masks: (N, H, W) bool.
semantic: (H, W) uint8, 255 = ignore. depth: (H, W) float32 in metres, 0 = unknown.
area: (N,), the annotation's own. iscrowd: (N,) bool. A data set may give boxes and area in float64, for evaluation.
image_id: int or str. size: (h, w), this grid without padding. original_size: (h, w) of the file.
truth: in validation, the data set's own targets, untouched, in original pixels.

Under a key of its own, a data set may give what stays the same when the image is cropped, resized or flipped: a string,
a single number or None, a list of strings, a dict of these. It is passed on as it is. A tensor, an array or a list of
numbers under another key is an error.
"""

Outputs = dict[str, Any]
"""What a head computes, on the batch's grid: `logits`, `boxes`, `masks`, `depth`, and what its loss needs besides."""

Losses = dict[str, Tensor]
"""Weighted terms, each a scalar; their sum is minimised."""

Predictions = dict[str, Any]
"""Results for one image in that image's original pixels: boxes xyxy, scores, labels, semantic, depth, masks."""

Table = Sequence[Sequence[str | int | float]]
"""Rows, the first of them the header."""


class Sample(TypedDict):
    """One image with its targets. image: (3, H, W) uint8, RGB."""

    image: Tensor
    targets: Targets


class Batch(TypedDict):
    """images: (B, 3, H, W) uint8, padded to one size. padding_mask: (B, H, W) bool, True = padding."""

    images: Tensor
    padding_mask: Tensor
    targets: list[Targets]


class Backbone(nn.Module):
    """Turns pictures into feature maps.

    channels, strides: one a feature, fine to coarse; strides in input pixels.
    mean, std: what the model normalises pixels in 0 ... 1 with, before the backbone sees them.
    input_size: (H, W), set only where the architecture allows no other.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) float, any H and W. Returns a (B, C_i, ceil(H / s_i), ceil(W / s_i)) a feature."""
        raise NotImplementedError(f"{type(self).__name__} is a Backbone and needs a forward(images).")

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by depth, input first, for layer-wise learning rates. By default one a child module."""
        groups = [list(child.parameters()) for child in self.children()]
        own = list(self.parameters(recurse=False))
        return [group for group in (own, *groups) if group]


class Neck(nn.Module):
    """Turns feature maps into feature maps, and belongs to a head (`heads.NAME.neck`)."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features in, features out, as `channels` and `strides` of this neck say."""
        raise NotImplementedError(f"{type(self).__name__} is a Neck and needs a forward(features).")


class Head(nn.Module):
    """Turns feature maps into one task's outputs, losses and predictions.

    task: "detection", "segmentation", "depth" or a word of one's own; it picks the classes and the evaluator.
    needs: the target keys it trains on; checked against the data at the start.
    quantity: what a depth head gives: "depth", in metres, which depth of no unit cannot teach, or "inverse_depth",
        relative, which is measured after alignment. None: it does not say, and nothing is checked.
    """

    task: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    quantity: str | None = None

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class]) -> None:
        super().__init__()
        self.classes = tuple(classes)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """padding_mask: (B, H, W) bool on the batch's grid, True = padding. targets: in training only."""
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and needs a forward(features, padding_mask, targets)."
        )

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """Always the same keys. Images that lack a key of `needs` are left out; images with nothing in it are not.

        Where no image is labelled, every term is exactly 0 and still connected to every parameter.
        """
        raise NotImplementedError(f"{type(self).__name__} is a Head and needs a loss(outputs, targets).")

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """One dict an image, in that image's original pixels. Reads `size` and `original_size` only."""
        raise NotImplementedError(f"{type(self).__name__} is a Head and needs a predict(outputs, targets).")

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Dense heads: (B, C, *size) in float32, what windows, flips and scales average: logits, depths.

        size: of the batch's grid in pixels, or of its top left part. Where C is the number of classes,
        `inference.average: probabilities` averages softmax(maps) instead.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no maps.")

    def undo_zoom(self, maps: Tensor, zoom: float) -> Tensor:
        """Dense heads: `maps` (B, C, h, w) of an image that was seen `zoom` times as large, as they are at zoom 1.

        Called before maps of several zooms are averaged (`inference.scales`). By default maps of a head whose
        `quantity` is "depth", metres, are multiplied by the zoom, by which training divides depth, and all others stay
        as they are. A head whose maps change with the zoom in another way, as logarithms of metres, overrides it.
        """
        return maps * zoom if self.quantity == "depth" else maps

    def read_maps(self, maps: Tensor) -> Predictions:
        """Dense heads: what averaged maps (B, C, h, w) say, pixel by pixel: `semantic` (B, h, w), `depth` (B, h, w).

        Called on parts of a picture's maps, in its original pixels: a pixel's result follows from its C numbers alone.
        Those may be probabilities in place of logits, see `maps`. On the maps of a picture that needs no resizing it
        says what `predict` says.
        """
        raise NotImplementedError(f"{type(self).__name__} reads no maps.")


class Dataset:
    """Images with targets in their original pixels. The framework resizes, augments and batches them.

    Its constructor takes `split` ("train" or "val") and options of its own; `image_size` too, where it wants it.
    classes: by task; things for "detection", things and surfaces for "segmentation".
    provides: the target keys that it labels, see `Targets`.
    metric: whether its `depth` is in metres; False where it is known up to its unit only.
    """

    classes: dict[str, tuple[Class, ...]]
    provides: tuple[str, ...]
    metric: bool = True

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and needs a __len__.")

    def __getitem__(self, index: int) -> Sample:
        """The sample in original pixels, with `image_id`: the same one at any time and in any process."""
        raise NotImplementedError(f"{type(self).__name__} is a Dataset and needs a __getitem__.")

    def check_labels(self) -> None:
        """Raises DataError where no image has a label, so that nothing can be learned or measured. Accepts by default.

        It is called before training, for the training split and for the one that is evaluated.
        """

    def sizes(self) -> np.ndarray | None:
        """(N, 2) heights and widths, where known without reading pictures; evaluation then batches equal sizes."""
        return None

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """(M,) int64, the indices that this epoch of training shows, as many in every epoch. By default each once.

        An index may stand there several times: each time, the image is augmented in another way.
        """
        return np.arange(len(self))


class Evaluator:
    """Accumulates predictions and computes metrics of the whole, never a mean over batches.

    main: the metric, of those that `compute` returns, by which the best epoch is chosen.
    lower_is_better: the metrics, of those that `compute` returns, that are errors; of all others more is better.
    """

    main: str
    lower_is_better: tuple[str, ...] = ()

    def __init__(self, classes: Sequence[Class]) -> None:
        self.classes = tuple(classes)

    def prepare(self, head: Head, data: Dataset) -> None:
        """Meets the head and the data that it will measure, once and before both are used. By default any will do.

        Raises ConfigError where that head cannot be measured on that data as the options say; the message begins with
        an option's name: "align is none, but ...".
        """

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """One prediction and one truth an image, in that image's original pixels. An image seen twice counts once."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and needs an update(predictions, truths).")

    def compute(self) -> dict[str, float]:
        """The metrics of all that was seen, as fractions 0 ... 1 or metres."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and needs a compute().")

    def tables(self) -> dict[str, Table]:
        """Small tables that are kept beside the metrics, by name: NAME-HEAD.csv in a run's folder. None by default.

        "confusion" is one that the report shows: after the header's first cell the classes' names; then a row a class
        of the truth, its name and how often each class was predicted.
        """
        return {}

    def results(self) -> list[dict[str, Any]] | None:
        """All predictions as entries of a COCO results file, where the task has such; `evaluate --out` writes them.

        Predictions that are maps are written picture by picture, without the evaluator.
        """
        return None

    def reset(self) -> None:
        """Forgets all that was seen."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and needs a reset().")

    def state(self) -> Any:
        """What was seen, picklable: processes exchange it before `compute`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def merge(self, states: Sequence[Any]) -> None:
        """Takes the states of all processes, its own among them, in place of what it has seen."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )
