"""The graph of an exported file: maps images to the outputs of all heads, in pixels of the images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import DenseHead, Outputs, Size
from densevit.layers.precision import in_float32
from densevit.model import DenseModel
from densevit.model.test_time_augmentation import undo_zoom
from densevit.model.zoom import at_reference_size, scale_of, zoom_for_head
from densevit_export.exported_outputs import exported
from densevit_export.exported_resizing import Resizing
from densevit_export.runtimes import FOCAL


class ExportedGraph(nn.Module):
    """A model for export.

    canvas: (h, w) that images are padded to; None: the next multiple of the model's coarsest stride. resizing: resizes
    images of any size first; None: does not resize.
    """

    def __init__(self, model: DenseModel, canvas: Size | None = None, resizing: Resizing | None = None) -> None:
        super().__init__()
        self.model, self.canvas, self.resizing = model, canvas, resizing
        self.references = {} if resizing is None else model.references  # else by the program that resizes

    def forward(self, images: Tensor, focal: Tensor | None = None) -> dict[str, Tensor]:
        """images: (B, C, H, W) with the model's channels. focal: (B,) in pixels of `images`, for heads of a canonical
        camera. Returns the outputs of `exported`, as HEAD/NAME for several heads."""
        return self.outputs(self.resized(images), focal, None if self.resizing is None else original_size(images))

    def focal_example(self, count: int) -> dict[str, Tensor]:
        """The input `focal` of some images, with different values; {} for a model without a canonical camera."""
        canonical = max(self.model.canonical_focals.values(), default=None)
        return {} if canonical is None else {FOCAL: canonical * torch.linspace(0.5, 2, count)}

    def resized(self, images: Tensor) -> Tensor:
        """The images (B, C, h, w) that the model takes, from images (B, C, H, W)."""
        return images if self.resizing is None else self.resizing(images)

    def outputs(
        self,
        images: Tensor,
        focal: Tensor | None = None,
        original: Size | None = None,
        padding_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`forward` for resized images. original: (H, W) before resizing; outputs are in pixels of this size.
        padding_mask: (B, h, w) bool, True = padding."""
        H, W = images.shape[-2:]
        focal = self.resized_focal(focal, (H, W), original)
        target = {"size": (H, W), "original_size": original, "focal": None if focal is None else focal[:, None, None]}
        made = self.made(images, padding_mask)
        by_head = at_reference_size(
            {
                name: [exported(head, in_float32(made[name]), (H, W), original)]
                for name, head in self.model.heads.items()
            },
            [target],
            self.model.target_types,
            self.references,
            self.model.canonical_focals,
        )
        for name, (values,) in by_head.items():  # numbers are also read from `maps`, after resizing
            numbers = {key for key, value in values.items() if value.is_floating_point()}
            if numbers > {"maps"} and isinstance(head := self.model.heads[name], DenseHead):
                zoom: Any = zoom_for_head(name, target, self.references, self.model.canonical_focals)
                if isinstance(zoom, Tensor):
                    zoom = zoom[..., None]  # also for channels
                values["maps"] = undo_zoom(head, values["maps"], zoom)
        return {self.prefix(name) + key: value for name, (values,) in by_head.items() for key, value in values.items()}

    def resized_focal(self, focal: Tensor | None, size: Size, original: Size | None) -> Tensor | None:
        """The focal lengths (B,) in pixels of the images that the model takes, of this size. original: (H, W) of the
        images that a file with resizing takes."""
        return focal if focal is None or self.resizing is None or original is None else focal * scale_of(size, original)

    def made(self, images: Tensor, padding_mask: Tensor | None = None) -> dict[str, Outputs]:
        """The outputs of the model for images that are already resized, by head. padding_mask: (B, H, W), True =
        padding, of images that are already padded to the canvas; None: pads them."""
        H, W = images.shape[-2:]
        if images.dtype == torch.uint16:  # ONNX Runtime cannot pad it
            images = images.float()
        height, width = self.canvas or (_padded(H, self.model.size_divisor), _padded(W, self.model.size_divisor))
        outside = (0, width - W, 0, height - H)
        if padding_mask is None:
            padding_mask = F.pad(torch.zeros_like(images[:, 0], dtype=torch.bool), outside, value=True)
        return self.model({"images": F.pad(images, outside), "padding_mask": padding_mask, "targets": []})

    def prefix(self, head: str) -> str:
        """The prefix of the names of a head's outputs."""
        return f"{head}/" if len(self.model.heads) > 1 else ""


class ResizedGraph(nn.Module):
    """The part of a graph after resizing, as a separate graph whose input has the resized size.

    In a single graph, the resized size would be an expression of the original size, and `torch.export` could prove
    hardly any condition on it.
    """

    def __init__(self, graph: ExportedGraph) -> None:
        super().__init__()
        self.exported = graph  # `graph` is an attribute of traced modules

    def forward(self, resized: Tensor, images: Tensor, focal: Tensor | None = None) -> dict[str, Tensor]:
        """resized: (B, C, h, w). images: (B, C, H, W), only their size is used. focal: (B,) in their pixels."""
        return self.exported.outputs(resized, focal, original_size(images))


def original_size(images: Tensor) -> Size:
    """(H, W) of images (B, C, H, W)."""
    return images.shape[-2], images.shape[-1]


def _padded(side: int, size_divisor: int) -> int:
    return (side + size_divisor - 1) // size_divisor * size_divisor
