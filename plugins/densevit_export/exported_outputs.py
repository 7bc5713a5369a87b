"""A head's outputs in exported files, and the predictions from these outputs."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import DenseHead, Outputs, Predictions, Targets


@runtime_checkable
class SupportsExport(Protocol):
    """A head with the method `exported`, for `densevit export`. A `DenseHead` can be exported without it."""

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The outputs of the file by name, (B, ...) each, from images of one size (h, w).

        In pixels of `original_size`, the image size before the file resized images; None: `size`. `torch.export` traces
        this with variable batch size, height and width: shapes may not depend on values, and loops over images are not
        allowed. Floating-point outputs are values before a selection or maximum, such as `boxes` (B, Q, 4) xyxy and
        `scores` (B, Q, K); they are compared between file and model.
        """


@runtime_checkable
class SupportsPredictExported(Protocol):
    """A head with the method `predict_exported`, for evaluating exported files. A `DenseHead` does not need it."""

    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `Head.predict` from the outputs of `exported`, in pixels of the targets' `size`.

        This head has the options of the exported head, but no weights: its parameters and buffers are on the meta
        device.
        """


def is_exportable(head: nn.Module) -> bool:
    """Whether a head has outputs for a file."""
    return isinstance(head, SupportsExport | DenseHead)


def predicts_exported(head: nn.Module) -> bool:
    """Whether a head can convert the outputs of its file to predictions."""
    return isinstance(head, SupportsPredictExported | DenseHead)


def exported(
    head: Any, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """`SupportsExport.exported` of a head. For a dense head, `read_maps` of its maps, and also `maps` if `read_maps`
    takes a maximum."""
    if isinstance(head, SupportsExport):
        return head.exported(outputs, size, original_size)
    assert isinstance(head, DenseHead)
    maps = head.maps(outputs, size)
    if original_size is not None:
        maps = F.interpolate(maps, size=original_size, mode="bilinear", align_corners=False)
    read = head.read_maps(maps)
    return read if all(x.is_floating_point() for x in read.values()) else {**read, "maps": maps}


def predict_exported(head: Any, outputs: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
    """`SupportsPredictExported.predict_exported` of a head. For a dense head, resizes `maps` to the original size and
    reads them; without `maps`, resizes the predictions, which equals `Head.predict` if `read_maps` is linear or the
    image was not resized.
    """
    if isinstance(head, SupportsPredictExported):
        return head.predict_exported(outputs, targets)
    assert isinstance(head, DenseHead)
    predictions = []
    for i, target in enumerate(targets):
        size = tuple(target["original_size"])
        if size == tuple(target["size"]):
            read = {key: value[i : i + 1] for key, value in outputs.items() if key != "maps"}
        elif "maps" in outputs:
            read = head.read_maps(_resized(outputs["maps"][i : i + 1], size))
        else:
            read = {key: _resized(value[i : i + 1], size) for key, value in outputs.items()}
        predictions.append({key: value[0] for key, value in read.items()})
    return predictions


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) or (B, C, h, w) in float32, resized bilinearly to `size`."""
    x = maps.float() if maps.ndim == 4 else maps.float()[:, None]
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x if maps.ndim == 4 else x[:, 0]
