"""Checks of a dense head's maps: what windows, flips and scales average, and what is read from the average."""

import torch
from torch import Tensor

from densevit.interfaces import Head
from densevit.testing.head_predictions import ROUNDING
from densevit.testing.head_subject import HeadBatch, HeadSubject
from densevit.testing.results import Failure
from densevit.testing.subjects import difference

_KEYS = ("semantic", "depth", "inverse_depth")
_TIES = 1e-3  # the share of a label map's pixels that rounding may turn


def maps(subject: HeadSubject) -> str | None:
    """maps are (B, C, *size) in fp32, and read_maps says of them, pixel by pixel, what predict says without resizing.

    undo_zoom gives maps of the same shape, at zoom 1 the same. A head that makes no maps is left alone, unless it reads
    some.
    """
    head = subject.build().eval()
    made = [getattr(type(head), name, None) not in (None, getattr(Head, name)) for name in ("maps", "read_maps")]
    if not any(made):
        return "makes no maps: no windows, flips and scales"
    if not all(made):
        found, lacking = ("maps", "read_maps") if made[0] else ("read_maps", "maps")
        raise Failure(f"{found}() without {lacking}()", "both, or neither", f"implement {lacking}")
    for scale in (1.0, 10.0):
        _check_maps(head, subject.batch(scale=scale))
    return None


def _check_maps(head: Head, batch: HeadBatch) -> None:
    targets = [{"size": target["size"], "original_size": target["size"]} for target in batch.targets]
    B, H, W = batch.padding_mask.shape
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        whole, part = head.maps(outputs, (H, W)), head.maps(outputs, (H - 5, W - 3))
        predicted = head.predict(outputs, targets)
        read = head.read_maps(whole)
        strip = head.read_maps(whole[:1, :, 3:10])
    for found, size in ((whole, (H, W)), (part, (H - 5, W - 3))):
        if found.dim() != 4 or found.shape[0] != B or found.shape[2:] != size or found.dtype != torch.float32:
            raise Failure(
                f"maps(outputs, {size}) of {found.dtype} {tuple(found.shape)}",
                f"torch.float32 ({B}, C, {size[0]}, {size[1]})",
                "bring maps to the pixels of the batch's grid, and cut them to the size at the top left",
            )
    if difference(part, whole[..., : H - 5, : W - 3]) > ROUNDING:
        raise Failure("maps that are squeezed to a smaller size", "their top left part", "cut maps to the size")
    for zoom in (1.0, 1.5):
        undone = head.undo_zoom(whole, zoom)
        if undone.shape != whole.shape or (zoom == 1 and difference(undone, whole) > ROUNDING):
            raise Failure(
                f"undo_zoom(maps, {zoom}) of {tuple(undone.shape)}" + (" that changes maps" if zoom == 1 else ""),
                f"maps {tuple(whole.shape)}" + (" as they were" if zoom == 1 else ""),
                "return maps as they are at zoom 1: metres times the zoom, logits as they are",
            )
    keys = {key for key in _KEYS if key in predicted[0]}
    if keys - read.keys() or not read:
        raise Failure(
            f"read_maps that gives {', '.join(read) or 'nothing'}",
            f"{', '.join(sorted(keys)) or 'something'}, as predict does",
            "return a dict of one (B, h, w) a key",
        )
    for key, value in read.items():
        if tuple(value.shape) != (B, H, W):
            raise Failure(f"read_maps with {key} of {tuple(value.shape)}", f"{(B, H, W)}", "return a number a pixel")
        if _differs(strip[key][0], value[0, 3:10]):
            raise Failure(
                f"{key} that differs where read_maps gets a part of the maps",
                "the same: it is called on parts of a picture",
                "let a pixel's result follow from its own C numbers alone",
            )
        for own, prediction, target in zip(value, predicted, targets, strict=True):
            h, w = target["size"]
            if key in prediction and _differs(own[:h, :w], prediction[key]):
                raise Failure(
                    f"{key} that differs between read_maps(maps(outputs, grid)) and predict",
                    "the same where original_size is size",
                    "let predict and read_maps share their last step, and maps hold all that it needs",
                )


def _differs(found: Tensor, expected: Tensor) -> bool:
    if found.dtype != expected.dtype:
        return True
    if found.is_floating_point():
        return bool(difference(found, expected) > ROUNDING)
    return bool((found != expected).float().mean() > _TIES)
