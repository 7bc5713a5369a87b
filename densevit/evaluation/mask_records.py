"""Predicted and annotated instance masks of many images, as run-length codes in flat arrays."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from densevit.errors import DataError, PluginError
from densevit.evaluation.mask_boundary import boundary_width, mask_boundary
from densevit.evaluation.object_records import (
    ObjectRecords,
    check_lengths,
    check_truth_lengths,
    first_rows,
    joined_arrays,
    unlabelled,
)
from densevit.interfaces import Predictions, Size, Targets
from densevit.targets.run_length_masks import RunLengthMasks


@dataclass(frozen=True, slots=True)
class MaskRecords(ObjectRecords):
    """Objects with masks as COCO's compressed run-length codes (bytes), without the image size.

    boundaries: codes of the masks' boundaries; None without boundary metrics.
    """

    sizes: np.ndarray  # (I, 2), height and width
    masks: np.ndarray  # (D,) objects
    boundaries: np.ndarray  # (D,) objects
    pixels: np.ndarray  # (D,)
    truth_masks: np.ndarray  # (G,) objects
    truth_boundaries: np.ndarray  # (G,) objects

    per_detection: ClassVar = (*ObjectRecords.per_detection, "masks", "boundaries", "pixels")
    per_truth: ClassVar = (*ObjectRecords.per_truth, "truth_masks", "truth_boundaries")

    @classmethod
    def empty(cls) -> dict[str, Any]:
        objects = ("masks", "boundaries", "truth_masks", "truth_boundaries")
        arrays = {
            "sizes": np.zeros((0, 2), int),
            "pixels": np.zeros(0),
            **{name: np.zeros(0, object) for name in objects},
        }
        return ObjectRecords.empty() | arrays

    @classmethod
    def of(
        cls,
        ids: Sequence[int | str],
        predictions: Sequence[Predictions],
        truths: Sequence[Targets],
        boundary: float = 0.0,
    ) -> "MaskRecords":
        """Collects predictions and targets of at least one image, from any device.

        Default of `area`: the number of pixels; of `iscrowd`: no crowds. boundary: fraction of the diagonal; 0: none.
        """
        predicted, annotated, sizes = [], [], []
        for image_id, prediction, truth in zip(ids, predictions, truths, strict=True):
            check_lengths(image_id, prediction, ("masks", "scores", "labels"))
            size, codes = _predicted(image_id, prediction["masks"], boundary)
            predicted.append(codes)
            annotated.append(_annotated(image_id, truth, size, boundary))
            sizes.append(size)
        detections = first_rows(len(image.masks) for image in predicted)
        labels = joined_arrays((prediction["labels"] for prediction in predictions), int)
        return cls(
            detections=detections,
            truths=first_rows(len(image.masks) for image in annotated),
            sizes=np.array(sizes),
            masks=_objects(image.masks for image in predicted),
            boundaries=_objects(image.boundaries for image in predicted),
            pixels=np.concatenate([image.pixels for image in predicted]),
            scores=joined_arrays(prediction["scores"] for prediction in predictions),
            labels=labels,
            unlabelled=unlabelled(detections, labels, truths),
            truth_masks=_objects(image.masks for image in annotated),
            truth_boundaries=_objects(image.boundaries for image in annotated),
            truth_labels=joined_arrays((truth["labels"] for truth in truths), int),
            areas=joined_arrays(t.get("area", image.pixels) for t, image in zip(truths, annotated, strict=True)),
            crowds=joined_arrays(
                t.get("iscrowd", np.zeros(len(image.masks))) for t, image in zip(truths, annotated, strict=True)
            ).astype(bool),
        )


def code(size: Sequence[int], counts: bytes) -> dict[str, Any]:
    """A run-length code as pycocotools reads it."""
    return {"size": list(size), "counts": counts}


class _Codes(NamedTuple):
    """The masks of one image."""

    masks: list[bytes]
    boundaries: Sequence[bytes | None]
    pixels: np.ndarray  # (N,)


def _predicted(image_id: int | str, masks: Any, boundary: float) -> tuple[Size, _Codes]:
    values = torch.as_tensor(masks)
    if values.ndim != 3 or values.dtype != torch.bool:
        actual = f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
        raise PluginError(f"image {image_id}: predicted `masks` are {actual}; (N, H, W) bool is expected.")
    size = int(values.shape[1]), int(values.shape[2])
    return size, _encoded(RunLengthMasks.from_dense(values.cpu().numpy(), size), boundary)


def _annotated(image_id: int | str, truth: Targets, size: Size, boundary: float) -> _Codes:
    check_truth_lengths(image_id, truth, ("masks", "labels"))
    masks = truth["masks"]
    if not isinstance(masks, RunLengthMasks):
        raise DataError(
            f"image {image_id}: ground-truth masks are a {type(masks).__name__}; RunLengthMasks are expected. "
            "Fix: densevit.RunLengthMasks.from_dense(masks, (height, width))."
        )
    if masks.size != size:
        raise DataError(
            f"image {image_id}: predicted masks are {size[0]} x {size[1]}, ground-truth masks are "
            f"{masks.size[0]} x {masks.size[1]} (height x width). A head's predict() must return masks of the original "
            "size."
        )
    return _encoded(masks, boundary)


def _encoded(masks: RunLengthMasks, boundary: float) -> _Codes:
    boundaries: Sequence[bytes | None] = [None] * len(masks)
    if boundary:
        width = boundary_width(boundary, masks.size)
        near = (mask_boundary(mask.view(np.uint8), width) for mask in masks)
        boundaries = RunLengthMasks.from_dense(near, masks.size).codes()
    return _Codes(masks.codes(), boundaries, masks.areas().astype(np.float64))


def _objects(codes: Iterable[Sequence[bytes | None]]) -> np.ndarray:
    """An array of the codes of all images."""
    return np.fromiter(itertools.chain.from_iterable(codes), object)
