"""The interface of probes: what they read of an image, what they fit to training images, and what they predict; and
intervals of their scores by the bootstrap over images (Efron 1979)."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Batch, Class, Evaluator, Predictions, Targets

Encode = Callable[[Batch], list[Tensor]]
"""The backbone's feature maps of a batch, (B, C_i, h_i, w_i) float32 each."""


class EncodedImage(NamedTuple):
    """A training image on the CPU: its maps (C_i, h_i, w_i), its targets, (H, W) of the network's input, and the input
    (C, H, W) if a neck needs it."""

    maps: Sequence[Tensor]
    target: Targets
    canvas: tuple[int, int]
    image: Tensor | None = None


def unchanged(x: Any) -> Any:
    """The default of a `Condition`."""
    return x


class Condition(NamedTuple):
    """What a column of scores changes.

    probes: those that are scored; heads: whether heads are. changes: changes of a validation batch; metrics are means
    over them. features: changes the backbone, a function from images to maps.
    """

    probes: "Mapping[str, Probe]"
    heads: bool = True
    changes: Sequence[Callable[[Batch], Batch]] = (unchanged,)
    features: Callable[[Callable[[Tensor], list[Tensor]]], Callable[[Tensor], list[Tensor]]] = unchanged


class LastBatch:
    """The maps of images, which are kept for the next call with equal images: heads and probes read the same batch."""

    def __init__(self, encode: Callable[[Tensor], list[Tensor]]) -> None:
        self.encode, self.images = encode, torch.empty(0)
        self.maps: list[Tensor] = []

    def __call__(self, images: Tensor) -> list[Tensor]:
        if not (images.shape == self.images.shape and torch.equal(images, self.images)):
            self.images, self.maps = images, [x.contiguous() for x in self.encode(images)]
        return self.maps


class Probe(ABC):
    """A small model on the features of a frozen backbone, which is fitted without training.

    task: whose classes the constructor gets; None: none. required_targets: the target keys that `features` and the
    evaluator read. evaluator: scores the predictions.

    Example:
        >>> class Brightness(Probe):
        ...     task, required_targets, evaluator = "classification", ("image_class",), Classification
        ...     def features(self, encode, batch, stride): return [x.mean() for x in encode(batch)[-1]]
        ...     def fit(self, images): self.mean = sum(images) / len(images)
        ...     def predict(self, image, size): return {"class_scores": torch.eye(2)[int(image > self.mean)]}
    """

    task: str | None = None
    required_targets: tuple[str, ...] = ()
    evaluator: type[Evaluator]

    def __init__(self, classes: Sequence[Class] = ()) -> None:
        self.classes = classes

    @abstractmethod
    def features(self, encode: Encode, batch: Batch, stride: int) -> list[Any]:
        """What the probe reads of each image of a batch, such as features with labels.

        The batch has the evaluation's transform; its targets are on the batch's grid, with `truth` in original pixels.
        stride: the last map's, in pixels; the batch may end within its last cells.
        """

    def fit(self, images: Sequence[Any]) -> None:
        """Fits the probe to the training images, each once, in the order of the data set. A class without it needs no
        training images."""
        raise NotImplementedError(f"{type(self).__name__} is not fitted.")

    @property
    def is_fitted(self) -> bool:
        """Whether the class implements `fit`."""
        return type(self).fit is not Probe.fit

    @abstractmethod
    def predict(self, image: Any, size: tuple[int, int]) -> Predictions:
        """The prediction for an image of this (height, width) in original pixels, as its evaluator reads it."""

    def scored(self, image: Any, truth: Targets) -> tuple[Predictions, Targets]:
        """The prediction and the ground truth of a validation image that has the keys of `required_targets`."""
        return self.predict(image, truth["original_size"]), truth


def bootstrap_intervals(
    evaluator: Evaluator, resamples: int, generator: np.random.Generator, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each metric that holds `level` of the resamples of the images.

    A resample has as many images as the evaluator, drawn with replacement. Resamples in which a metric is undefined do
    not count; nan where all are, and without images. The intervals depend neither on the order of the images nor on
    the number of processes.
    """
    records = evaluator.records
    draws = generator.integers(max(1, len(records)), size=(resamples, len(records))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of `compute`, and of columns that are all nan
        samples = [evaluator.compute([records[i] for i in sorted(drawn)]) for drawn in draws]
        bounds = np.nanquantile([[*x.values()] for x in samples], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(samples[0], *bounds, strict=True)}
