"""The interfaces of backbones, necks and heads."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces.data_types import Class, Losses, Outputs, Predictions, Targets
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.target_types import TargetType
from densevit.losses.context import LossContext

IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Computes feature maps from images.

    channels, strides: one per feature, fine to coarse; strides in input pixels.
    mean, std: normalisation of pixels in 0 ... 1, which the model applies before the backbone.
    input_size: (H, W), only if the architecture has a fixed input size.
    licences: the licences of published weights that its constructor loads, by their source.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: tuple[int, int] | None = None
    licences: Mapping[str, str] = MappingProxyType({})

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) float, any H and W. Returns features (B, C_i, ceil(H / s_i), ceil(W / s_i))."""
        raise NotImplementedError(f"{type(self).__name__} is a Backbone and must implement forward(images).")

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by depth, input first, for layer-wise learning rates. Default: one group per child."""
        groups = [list(child.parameters()) for child in self.children()]
        own = list(self.parameters(recurse=False))
        return [group for group in (own, *groups) if group]


class Neck(nn.Module):
    """Transforms the feature maps for one head (`heads.NAME.neck`)."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Returns features with the `channels` and `strides` of this neck.

        padding_mask: (B, H, W) bool of the batch, True = padding; `densevit.layers.positions.mask_on_grid` resizes it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a Neck and must implement forward(features, padding_mask)."
        )


class Head(nn.Module):
    """Computes outputs, losses and predictions of one task from feature maps. A dense head is a `DenseHead`.

    A head that can be exported has `exported(outputs, size, original_size=None) -> dict[str, Tensor]`: the outputs of
    the file by name, (B, ...) each, from images of one size (h, w). They are in pixels of `original_size`, the size of
    the images before the file resized them; None: `size`. It is traced by `torch.export` with variable batch size,
    height and width: shapes may not depend on values, and loops over images are not allowed. Floating-point outputs are
    values before a selection or maximum, such as `boxes` (B, Q, 4) xyxy and `scores` (B, Q, K); the file is compared
    with the model by them. `predict_exported(exported, targets) -> list[Predictions]` makes the predictions of
    `predict` from these outputs, which are in pixels of the targets' `size`; a file of a head without it can be
    written, but not evaluated. It is called on a head with the options of the exported one, but not its weights.

    task: "detection", "segmentation", "depth" or a custom name; determines the classes and the evaluator.
    needs: target keys required for training; checked against the data at the start.
    quantity: output of a depth head: "depth" in metres, which needs metric ground truth, or relative "inverse_depth",
        which is evaluated after alignment. None: not declared and not checked.
    target_types: the types of prediction keys whose types have options, such as a skeleton; other keys have the
        registered type of that name.
    starts_from: other tasks whose heads' weights can initialise this head, each with patterns of tensors of this head
        that such a head does not have; they keep their initial values.
    last_blocks: the number of the backbone's last blocks that the head runs itself, which needs a `TokenBackbone`;
        `forward` then gets a `LastBlocks` instead of features, and the head has no neck. 0: none.
    nms, max_predictions: IoU of the class-wise non-maximum suppression that boxes of `exported` need, and the largest
        number of objects of an image, also over several windows; written into exported files. None: not needed.
    """

    task: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    starts_from: ClassVar[Mapping[str, Sequence[str]]] = {}
    last_blocks: int = 0
    nms: float | None = None
    max_predictions: int | None = None
    quantity: str | None = None
    target_types: "Mapping[str, TargetType] | None" = None

    def __init__(self, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class]) -> None:
        super().__init__()
        self.classes = tuple(classes)

    def replaced_tensors(self, options: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
        """The tensors of this head to use in place of those of weights that were trained with other options, and why.

        options: the options of the head that the weights were trained with, without defaults. Called before the weights
        are loaded, on a newly built head. Default: none; all tensors whose shapes fit are loaded.
        """
        return {}, ""

    def class_rows(self, name: str, rows: int) -> Tensor | None:
        """The rows of each class (K, R) in a tensor whose first dimension depends on the number of classes.

        By it, the rows of known classes are loaded from a head with other classes. name: the tensor's key in this
        head's state dict. rows: its first dimension. None: not known, and the tensor keeps its initial values if the
        classes differ. Default: one row per class, in their order, before all others, such as that of "no object".
        """
        count = len(self.classes)
        return torch.arange(count)[:, None] if rows >= count else None

    @classmethod
    def classes_from(cls, dataset: "Dataset") -> tuple[Class, ...]:
        """Returns the classes that the head predicts for this data set. Default: the classes of its task, or none."""
        return tuple(dataset.classes.get(cls.task, ()))

    def check(self, dataset: "Dataset") -> None:
        """Called once before training with the training split. Default: a head for metric depth needs metric data.

        Raises ConfigError if the head cannot be trained on it; the message continues "heads.NAME (PLUGIN) ". Warnings
        get the same prefix, for example if an image has more objects (`Dataset.object_counts`) than the head predicts.
        """
        if self.quantity == "depth" and not dataset.metric:
            raise ConfigError(
                "learns metres, but the depth of the data set has no unit (metric: false). Fix: give the head a "
                "relative output (output: relative); or calibrate the data: set what its values are in metres "
                "(data.scale; for disparity data.stereo), and remove metric: false."
            )

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """padding_mask: (B, H, W) bool, True = padding. targets: the targets of each image, in training only."""
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and must implement forward(features, padding_mask, targets)."
        )

    def set_progress(self, progress: float) -> None:
        """Called before each training batch with the share of the optimiser steps that are done, in 0 ... 1, for what
        changes during training. Default: nothing. A resumed training continues with the share at which it stopped.
        """

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Always returns the same keys. Images that lack a key of `needs` are ignored; images without objects are not.

        If no image is labelled, every term is exactly 0 and still connected to every parameter. context: the
        normalisers of the terms, over processes and accumulated batches.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is a Head and must implement loss(outputs, targets, context)."
        )

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        """The normalisers of the loss terms of a batch by name, from its targets on the CPU. Default: {}, unknown.

        With `trainer.accumulate` above 1, `LossContext.mean_counts` returns the means over all batches of the optimiser
        step, so that the step equals a step on one large batch. A normaliser that depends on predictions is not part of
        the result.
        """
        return {}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns one dict per image, in original pixels. Uses only `size` and `original_size` of the targets."""
        raise NotImplementedError(f"{type(self).__name__} is a Head and must implement predict(outputs, targets).")


class DenseHead(Head):
    """A head whose predictions are made from maps, which sliding windows, flips and scales average."""

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Maps (B, C, *size) in float32 that test-time augmentation averages, e.g. logits or depth.

        size: (H, W) in pixels of the padded batch or a top-left crop of it. If C is the number of classes,
        `inference.average: probabilities` averages softmax(maps) instead.
        """
        raise NotImplementedError(f"{type(self).__name__} is a DenseHead and must implement maps(outputs, size).")

    def undo_zoom(self, maps: Tensor, zoom: float) -> Tensor:
        """Converts `maps` (B, C, h, w) of an image that was enlarged by `zoom` to zoom 1.

        Called before maps of several scales are averaged (`inference.scales`). By default, maps of a head whose
        `quantity` is "depth" are multiplied by the zoom, because training divides depth by it; others are unchanged.
        Heads whose maps depend on the zoom in another way, e.g. log depth, override this method.
        """
        return maps * zoom if self.quantity == "depth" else maps

    def read_maps(self, maps: Tensor) -> Predictions:
        """Predictions from averaged maps (B, C, h, w): `semantic` or `depth` (B, h, w), or vectors.

        Called on crops of the maps in original pixels, so the result of a pixel may depend only on its C values, which
        may be probabilities instead of logits (see `maps`). For an image that is not resized it equals `predict`. Maps
        of a flipped image are mirrored, or flipped by the target type of the prediction that has the maps' values.
        """
        raise NotImplementedError(f"{type(self).__name__} is a DenseHead and must implement read_maps(maps).")

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """Returns the result of `read_maps` on `maps`, and also `maps` if `read_maps` takes a maximum."""
        maps = self.maps(outputs, size)
        if original_size is not None:
            maps = F.interpolate(maps, size=original_size, mode="bilinear", align_corners=False)
        read = self.read_maps(maps)
        return read if all(x.is_floating_point() for x in read.values()) else {**read, "maps": maps}

    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """Resizes `maps` to the original size and reads them; without `maps`, resizes what was read.

        The latter equals `predict` if `read_maps` is linear, or the image was not resized.
        """
        found = []
        for i, target in enumerate(targets):
            size = tuple(target["original_size"])
            if size == tuple(target["size"]):
                read = {key: value[i : i + 1] for key, value in exported.items() if key != "maps"}
            elif "maps" in exported:
                read = self.read_maps(resized_maps(exported["maps"][i : i + 1], size))
            else:
                read = {key: resized_maps(value[i : i + 1], size) for key, value in exported.items()}
            found.append({key: value[0] for key, value in read.items()})
        return found


def resized_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) or (B, C, h, w) in float32, resized bilinearly to `size`."""
    x = maps.float() if maps.ndim == 4 else maps.float()[:, None]
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x if maps.ndim == 4 else x[:, 0]
