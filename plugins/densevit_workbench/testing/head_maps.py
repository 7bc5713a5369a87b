"""Checks of a dense head's maps, which test-time augmentation averages and read_maps decodes."""

import torch
from torch import Tensor

from densevit.interfaces import DenseHead
from densevit.model.test_time_augmentation import undo_zoom
from densevit.targets.types import TargetTypes
from densevit_workbench.testing.check_results import NotChecked, check, require
from densevit_workbench.testing.fixtures import ROUNDING, difference
from densevit_workbench.testing.head_fixtures import HeadBatch, HeadFixture

_TIES = 1e-3  # fraction of a label map's pixels that may change by rounding


@check("maps that decode to the predictions", "see maps and read_maps in densevit/interfaces/")
def maps(fixture: HeadFixture) -> None:
    """maps returns (B, C, *size) in fp32; read_maps decodes each pixel to the prediction of `predict` without resizing.

    undo_zoom preserves the shape of maps, and their values at zoom 1. Only `DenseHead`s are checked.
    """
    head = fixture.build().eval()
    if not isinstance(head, DenseHead):
        name = type(head).__name__
        require(
            not hasattr(head, "maps"),
            f"maps() of {name}, which is not a DenseHead",
            "a subclass of DenseHead",
            f"write class {name}(densevit.DenseHead)",
        )
        raise NotChecked("makes no maps: no windows, flips and scales")
    for scale in (1.0, 10.0):
        _check_maps(head, fixture.batch(scale=scale), fixture.types)


def _check_maps(head: DenseHead, batch: HeadBatch, types: TargetTypes) -> None:
    targets = [{"size": target["size"], "original_size": target["size"]} for target in batch.targets]
    B, H, W = batch.padding_mask.shape
    with torch.no_grad():
        outputs = head(batch.copies(), batch.padding_mask)
        full, part = head.maps(outputs, (H, W)), head.maps(outputs, (H - 5, W - 3))
        predicted = head.predict(outputs, targets)
        read, strip = head.read_maps(full), head.read_maps(full[:1, :, 3:10])
    for grid_maps, size in ((full, (H, W)), (part, (H - 5, W - 3))):
        require(
            grid_maps.dim() == 4
            and grid_maps.shape[0] == B
            and grid_maps.shape[2:] == size
            and grid_maps.dtype == torch.float32,
            f"maps(outputs, {size}) of {grid_maps.dtype} {tuple(grid_maps.shape)}",
            f"torch.float32 ({B}, C, {size[0]}, {size[1]})",
            "resize maps to the batch's grid, and crop them to the size at the top left",
        )
    require(
        difference(part, full[..., : H - 5, : W - 3]) <= ROUNDING,
        "maps that are resized to a smaller size",
        "their top left part",
        "crop maps to the size",
    )
    for zoom in (1.0, 1.5):
        undone = undo_zoom(head, full, zoom)
        require(
            undone.shape == full.shape and (zoom != 1 or difference(undone, full) <= ROUNDING),
            f"undo_zoom(maps, {zoom}) of {tuple(undone.shape)}" + " that changes maps" * (zoom == 1),
            f"maps {tuple(full.shape)}" + ", unchanged" * (zoom == 1),
            "return maps unchanged at zoom 1: multiply metres by the zoom, leave logits",
        )
    keys = [key for key in predicted[0] if key in types and types[key].per == "pixel"]
    require(
        read and read.keys() >= set(keys),
        f"read_maps that gives {', '.join(read) or 'nothing'}",
        f"{', '.join(keys) or 'something'}, as predict does",
        "return a dict with one (B, h, w), or (B, C, h, w), per key",
    )
    for key, value in read.items():
        what, fits = f"read_maps with {key} of {tuple(value.shape)}", value.shape[:1] + value.shape[-2:] == (B, H, W)
        require(fits, what, f"({B}, {H}, {W}), or ({B}, C, {H}, {W})", "return one value or vector per pixel")
        require(
            _close(strip[key][0], value[0, ..., 3:10, :]),
            f"{key} that differs where read_maps gets a part of the maps",
            "the same: it is called on parts of an image",
            "compute a pixel's result from its own C numbers alone",
        )
        for decoded, prediction, (h, w) in zip(value, predicted, (target["size"] for target in targets), strict=True):
            require(
                key not in prediction or _close(decoded[..., :h, :w], prediction[key]),
                f"{key} that differs between read_maps(maps(outputs, grid)) and predict",
                "the same where original_size is size",
                "let predict and read_maps share their last step, and let maps contain its complete input",
            )


def _close(actual: Tensor, expected: Tensor) -> bool:
    if actual.is_floating_point():
        return actual.dtype == expected.dtype and difference(actual, expected) <= ROUNDING
    return actual.dtype == expected.dtype and bool((actual != expected).float().mean() <= _TIES)
