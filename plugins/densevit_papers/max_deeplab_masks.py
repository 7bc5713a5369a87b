"""Ground truth and predictions of panoptic segmentation as sets of masks with classes (MaX-DeepLab, Wang et al. 2021,
section 3.1).

The paper has K ground-truth masks m_i of classes c_i, and N predictions, masks m̂_i with class probabilities p̂_i. Here
these are N segments, Q queries and K classes, as in other files. P is the number of cells of a mask, h * w.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from densevit.interfaces import LABEL_DIVISOR, Targets
from densevit.layers.precision import at_least_fp32
from densevit.losses.distributed import cpu_copy_of, to_device
from densevit.set_prediction.mask_segments import segment_ids


class GridTruth(NamedTuple):
    """The N segments of an image at the h x w cells of its masks. masks: m, (N, P) bool. labels: c, (N,)."""

    masks: Tensor
    labels: Tensor
    size: tuple[int, int]
    name: int | str

    @classmethod
    def of(
        cls,
        targets: Sequence[Targets],
        num_classes: int,
        stride: int,
        device: torch.device,
        align_corners: bool = False,
    ) -> "list[GridTruth]":
        """The segments of panoptic maps, read at a pixel of each cell; void and crowds belong to none.

        Segments without such a pixel are left out, as in the authors' code. Ids are read from the copies of maps
        (`cpu_copy_of`), or copied from the device once. align_corners: reads the first pixels, instead of the centres.
        """
        truths = []
        offset = 0 if align_corners else stride // 2
        copies = [_ids_of_cells(cpu_copy_of(target["panoptic"]), stride, offset) for target in targets]
        ids_of_images = segment_ids(copies, targets, "panoptic", num_classes)
        for i, (cell_ids, row, target) in enumerate(zip(copies, ids_of_images, targets, strict=True)):
            cells = to_device(cell_ids, device)
            ids = to_device(torch.tensor(row, dtype=torch.long), device)
            m = cells.flatten() == ids[:, None]  # (N, P)
            h, w = cells.shape
            truths.append(cls(m, ids // LABEL_DIVISOR, (h, w), target.get("image_id", i)))
        return truths

    def select(self, segments: Tensor) -> "GridTruth":
        return self._replace(masks=self.masks[segments], labels=self.labels[segments])

    def at(self, cells: Tensor) -> "GridTruth":
        """The segments at these cells only, (N, number of cells)."""
        return self._replace(masks=self.masks[:, cells])

    @property
    def labelled(self) -> Tensor:
        """Whether a cell belongs to a segment, (P,) bool."""
        return self.masks.any(dim=0)


class MaskOutputs(NamedTuple):
    """Predictions of a layer for a batch. logits: (B, Q, K+1), the last class is "no object"; their softmax is p̂.
    masks: mask logits (B, Q, h, w), whose softmax over the queries is m̂. features: g, (B, C, h, w), normalised per
    pixel."""

    logits: Tensor
    masks: Tensor
    features: Tensor

    def for_image(self, image: int, size: tuple[int, int]) -> "MaskOutputs":
        """The predictions of an image without padding, in at least fp32: (Q, K+1), (Q, P) and (C, P).

        size: (h, w) of its masks.
        """
        h, w = size
        masks, features = (at_least_fp32(x[image, :, :h, :w].flatten(1)) for x in (self.masks, self.features))
        return MaskOutputs(at_least_fp32(self.logits[image]), masks, features)


def mean_over(cells: Tensor, values: Tensor) -> Tensor:
    """Mean of values (P,) over cells (P,) bool; 0 if there are none."""
    return (values * cells).sum() / cells.sum().clamp(min=1)


def _ids_of_cells(panoptic: Tensor, stride: int, offset: int) -> Tensor:
    """The ids at a pixel of each cell, or at the image's last pixel if this pixel is outside the image.

    offset: the distance of the pixel from the cell's first pixel, in each axis.
    """
    for axis, side in enumerate(panoptic.shape):
        index = torch.arange(0, side, stride, device=panoptic.device) + offset
        panoptic = panoptic.index_select(axis, index.clamp(max=side - 1))
    return panoptic
