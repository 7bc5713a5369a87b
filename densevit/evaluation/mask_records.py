"""Instance masks of many images, predicted and annotated, as run-length codes in flat arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
import torch

from densevit.errors import DataError, PluginError
from densevit.evaluation.mask_boundary import boundary_width, mask_boundary
from densevit.evaluation.object_records import ObjectRecords, check_lengths, check_truth_lengths, joined_arrays
from densevit.interfaces import Predictions, Size, Targets


@dataclass(frozen=True)
class MaskRecords(ObjectRecords):
    """Objects with masks as COCO's compressed run-length codes (bytes), without the size of the image.

    boundaries: codes of the masks' boundaries; None if they are not evaluated.
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
    def empty(cls) -> dict[str, np.ndarray]:
        objects = ("masks", "boundaries", "truth_masks", "truth_boundaries")
        arrays = {
            "sizes": np.zeros((0, 2), int),
            "pixels": np.zeros(0),
            **{name: np.zeros(0, object) for name in objects},
        }
        return super().empty() | arrays

    @classmethod
    def of(
        cls,
        ids: Sequence[int | str],
        predictions: Sequence[Predictions],
        truths: Sequence[Targets],
        boundary: float = 0.0,
    ) -> "MaskRecords":
        """Collects predictions and targets of at least one image; tensors of any device.

        `area` defaults to the number of pixels, `iscrowd` to no crowds. boundary: a fraction of the diagonal; 0: none.
        """
        predicted, known, sizes = [], [], []
        for image_id, prediction, truth in zip(ids, predictions, truths, strict=True):
            check_lengths(image_id, prediction, ("masks", "scores", "labels"))
            size, codes = _predicted(image_id, prediction["masks"], boundary)
            predicted.append(codes)
            known.append(_annotated(image_id, truth, size, boundary))
            sizes.append(size)
        return cls(
            ids=np.array(ids, object),
            sizes=np.array(sizes),
            detections=np.array([len(one.masks) for one in predicted]),
            masks=_objects(predicted, "masks"),
            boundaries=_objects(predicted, "boundaries"),
            pixels=np.concatenate([one.pixels for one in predicted]),
            scores=joined_arrays(prediction["scores"] for prediction in predictions),
            labels=joined_arrays(prediction["labels"] for prediction in predictions),
            truths=np.array([len(one.masks) for one in known]),
            truth_masks=_objects(known, "masks"),
            truth_boundaries=_objects(known, "boundaries"),
            truth_labels=joined_arrays(truth["labels"] for truth in truths),
            areas=joined_arrays(t.get("area", one.pixels) for t, one in zip(truths, known, strict=True)),
            crowds=joined_arrays(
                t.get("iscrowd", np.zeros(len(one.masks))) for t, one in zip(truths, known, strict=True)
            ).astype(bool),
        )


def code(size: Sequence[int], counts: bytes) -> dict[str, Any]:
    """A run-length code as pycocotools reads it."""
    return {"size": list(size), "counts": counts}


class _Codes(NamedTuple):
    """The masks of one image."""

    masks: list[bytes]
    boundaries: list[bytes | None]
    pixels: np.ndarray  # (N,)


def _predicted(image_id: int | str, masks: Any, boundary: float) -> tuple[Size, _Codes]:
    values = torch.as_tensor(masks)
    if values.ndim != 3 or values.dtype != torch.bool:
        kind = f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
        raise PluginError(f"image {image_id}: predicted `masks` are {kind}; (N, H, W) bool is expected.")
    size = int(values.shape[1]), int(values.shape[2])
    return size, _encoded(values.cpu().numpy().view(np.uint8), size, boundary)


def _annotated(image_id: int | str, truth: Targets, size: Size, boundary: float) -> _Codes:
    """Encodes annotated masks (N, H, W), or a list of COCO's run-length codes."""
    from pycocotools import mask as codes

    masks = truth["masks"]
    check_truth_lengths(image_id, truth, ("masks", "labels"))
    if not len(masks):
        return _encoded(np.zeros((0, *size), np.uint8), size, boundary)
    as_codes = isinstance(masks[0], Mapping)
    sizes = {tuple(one["size"]) if as_codes else tuple(one.shape) for one in masks}
    if sizes != {size}:
        other = next(" x ".join(map(str, one)) for one in sizes if one != size)
        raise DataError(
            f"image {image_id}: predicted masks are {size[0]} x {size[1]}, a mask of the ground truth is {other} "
            "(height x width). A head's predict() must return masks of the original size."
        )
    if not as_codes:
        return _encoded(torch.as_tensor(masks).bool().cpu().numpy().view(np.uint8), size, boundary)
    known = [_compressed(one, size) for one in masks]
    pixels = codes.area(known).astype(np.float64)
    boundaries: list[bytes | None] = [None] * len(known)
    if boundary:
        width = boundary_width(boundary, size)
        boundaries = [_encode(mask_boundary(np.ascontiguousarray(codes.decode(one)), width)) for one in known]
    return _Codes([one["counts"] for one in known], boundaries, pixels)


def _compressed(one: Mapping[str, Any], size: Size) -> dict[str, Any]:
    from pycocotools import mask as codes

    counts = one["counts"]
    if isinstance(counts, str | bytes):
        return code(size, counts.encode() if isinstance(counts, str) else counts)
    compressed: dict[str, Any] = codes.frPyObjects({"size": list(size), "counts": list(counts)}, *size)
    return compressed


def _encoded(masks: np.ndarray, size: Size, boundary: float) -> _Codes:
    """masks: (N, H, W) uint8, 0 or 1."""
    width = boundary_width(boundary, size) if boundary else 0
    boundaries = [_encode(mask_boundary(mask, width)) if boundary else None for mask in masks]
    pixels = np.array([np.count_nonzero(mask) for mask in masks], np.float64)
    return _Codes([_encode(mask) for mask in masks], boundaries, pixels)


def _encode(mask: np.ndarray) -> bytes:
    """Encodes one mask (H, W) at a time, which bounds memory; the codes run along columns."""
    from pycocotools import mask as codes  # late: it takes time to import

    (encoded,) = codes.encode(cv2.transpose(mask)[None].transpose(2, 1, 0))
    counts: bytes = encoded["counts"]
    return counts


def _objects(images: Sequence[_Codes], name: str) -> np.ndarray:
    values = [value for one in images for value in getattr(one, name)]
    array = np.empty(len(values), object)
    array[:] = values
    return array
