"""The interface of heads. Methods that only a tool calls are protocols: docs/own-head.md."""

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from densevit.constructor_call import Recorded
from densevit.errors import ConfigError
from densevit.interfaces.data_types import Class, Classes, Losses, Outputs, Predictions, Targets, as_classes
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.target_types import TargetType
from densevit.losses.context import LossContext


class Head(nn.Module, Recorded):
    """Computes outputs, losses and predictions of one task from feature maps. A dense head is a `DenseHead`.

    Required: `task`, `required_targets`, a constructor, `forward`, `loss` and `predict`. The rest has defaults.

    task: "detection", "segmentation", "depth" or a custom name; determines the classes and the evaluator.
    required_targets: target keys required for training; checked against the data at the start.
    depth_type: output of a depth head: "depth" in metres, which needs metric ground truth, or relative "inverse_depth",
        evaluated after alignment. None: not declared and not checked.
    canonical_focal: the focal length in pixels of the camera whose metres the head learns and predicts, see
        `canonical_depth` in `densevit.losses.depth`; the model converts its predictions to metres by the `focal` of
        each image. None: metres.
    target_types: the types of prediction keys with options, such as a skeleton; other keys have the registered type of
        their name.
    last_blocks: the number of the backbone's last blocks that the head runs, which needs a `TokenBackbone`; `forward`
        then gets a `LastBlocks` instead of features, and the head has no neck. 0: no block, but all tokens of the
        features, with class and register tokens. None: features.
    finest_stride: the stride of the finest feature that the head is made for; a training on a backbone whose features
        all have one coarser stride begins with a line that names a neck. None: any stride.
    nms: IoU above which `predict` removes a box as a duplicate, class by class. None: it removes none.
    object_limits: the names of attributes and options; the smallest value among those that the head has is the largest
        number of objects or segments of an image. Training on images with more is a warning.
    partial_labels: whether the loss of objects or segments leaves out the classes that are not labelled in an image, by
        `labelled` of its targets. False: such images are an error.

    Example:
        >>> import torch
        >>> class Mean(densevit.Head):
        ...     task, required_targets = "mean", ("mean",)
        ...     def forward(self, features, padding_mask, targets=None): return {"mean": features[-1].mean((1, 2, 3))}
        >>> Mean([64], [8], [])([torch.ones(2, 64, 4, 6)], padding_mask=None)["mean"]
        tensor([1., 1.])
    """

    task: ClassVar[str]
    required_targets: ClassVar[tuple[str, ...]]
    depth_type: str | None = None
    canonical_focal: float | None = None
    target_types: Mapping[str, TargetType] | None = None
    last_blocks: int | None = None
    finest_stride: int | None = None
    nms: float | None = None
    object_limits: ClassVar[tuple[str, ...]] = ("num_queries", "max_predictions")
    partial_labels: bool = False
    _warned = False

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: Classes) -> None:
        super().__init__()
        self.classes = as_classes(classes)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """padding_mask: (B, H, W) bool, True = padding. targets: the targets of each image, in training only."""
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and must implement forward(features, padding_mask, targets)."
        )

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Always returns the same keys. Ignores images that lack a required target, but not images without objects.

        Without labelled images, every term is exactly 0 and still connected to every parameter. context: the
        normalisers of the terms, over processes and accumulated batches.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and must implement loss(outputs, targets, context)."
        )

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """One dict per image, in original pixels. Uses only `size` and `original_size` of the targets."""
        raise NotImplementedError(f"{type(self).__name__} is a Head and must implement predict(outputs, targets).")

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The normalisers of a batch's loss terms by name, from its targets on the CPU. Default: {}, unknown.

        With `trainer.accumulate` above 1, `LossContext.mean_counts` returns the means over all batches of the optimiser
        step, which makes the step equal to a step on one large batch. Leave out normalisers that depend on predictions.
        """
        return {}

    def set_progress(self, progress: float) -> None:
        """Called before each optimiser step and each validation with the share of the run's optimiser steps that are
        done, in 0 ... 1, for what changes during training: 0 in a run without end, 1 outside of training. Default:
        nothing. A resumed run continues with its share.
        """

    @classmethod
    def classes_from(cls, dataset: Dataset) -> tuple[Class, ...]:
        """The classes that the head predicts for a data set. Default: the classes of its task, or none."""
        return tuple(dataset.classes.get(cls.task, ()))

    def check(self, dataset: Dataset) -> None:
        """Called before training with the training split. Default: a head for metric depth needs metric data, and more
        objects in an image than the head predicts are a warning (`warn_of_objects`).

        Raises ConfigError if the head cannot be trained on it; the message continues "heads.NAME (PLUGIN) ".
        """
        if self.depth_type == "depth" and not dataset.metric:
            raise ConfigError(
                "learns metres, but the depth of the data set has no unit (metric: false). Fix: set a "
                "relative output (output: relative); or calibrate the data: set the metres per value "
                "(data.scale; for disparity data.stereo), and remove metric: false."
            )
        if {"boxes", "labels", "panoptic"}.isdisjoint(self.required_targets):
            return
        counts = dataset.object_counts()
        if counts is not None:
            self.warn_of_objects([int(count) for count in counts])

    def warn_of_objects(self, counts: Sequence[int], images: Sequence[int | str] | None = None) -> None:
        """Warns once if an image has more objects or segments than the head predicts (`object_limits`).

        counts: the number in each image. images: their ids; None: they are all training images.
        """
        values = {option: getattr(self, option, None) for option in self.object_limits}
        limits = {option: value for option, value in values.items() if value is not None}
        most = max(counts, default=0)
        if self._warned or not limits or most <= min(limits.values()):
            return
        self._warned = True
        option = min(limits, key=limits.__getitem__)
        noun = "segments" if {"panoptic", "semantic"}.intersection(self.required_targets) else "objects"
        if images is None:
            over = sum(count > limits[option] for count in counts)
            image = f"{over:,} of {len(counts):,} training images have more {noun} than {option}; one of them"
        else:
            image = f"image {images[counts.index(most)]!r}"
        warnings.warn(
            f"{image} has {most} {noun}, but {option} is {limits[option]}: {most - limits[option]} of them cannot be "
            f"predicted. Fix: set {option} to at least {most}.",
            stacklevel=3,
        )


class DenseHead(Head):
    """A head whose predictions are read from maps, which sliding windows, flips and scales average.

    Export and evaluation of exported files need no more methods.

    Example:
        >>> import torch
        >>> class Labels(densevit.DenseHead):
        ...     task, required_targets = "segmentation", ("semantic",)
        ...     def read_maps(self, maps): return {"semantic": maps.argmax(1).to(torch.uint8)}
        >>> Labels([64], [8], []).read_maps(torch.zeros(1, 5, 4, 6))["semantic"].shape
        torch.Size([1, 4, 6])
    """

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Maps (B, C, *size) in float32 that test-time augmentation averages, e.g. logits or depth.

        size: (H, W) in pixels of the padded batch or a top-left crop of it. If C is the number of classes,
        `inference.average: probabilities` averages softmax(maps) instead.
        """
        raise NotImplementedError(f"{type(self).__name__} is a DenseHead and must implement maps(outputs, size).")

    def read_maps(self, maps: Tensor) -> Predictions:
        """Predictions from averaged maps (B, C, h, w): `semantic` or `depth` (B, h, w), or vectors.

        Called on crops of the maps in original pixels, so a pixel's result may depend only on its C values, which may
        be probabilities instead of logits (see `maps`). Equals `predict` for an image that is not resized. Maps of a
        flipped image are mirrored, or flipped by the target type of the prediction with the maps' values.
        """
        raise NotImplementedError(f"{type(self).__name__} is a DenseHead and must implement read_maps(maps).")
