"""The levels that torchvision's detectors predict on: its feature pyramid network, and anchors of exact strides."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork


class TorchvisionPyramid(nn.Module):
    """torchvision's `FeaturePyramidNetwork` (Lin et al. 2017) on one feature of each stride.

    stride: finest stride to use; of features with equal strides, the deepest is used. If all strides are finer, the
    coarsest feature is used. extra_blocks: adds `extra_levels` levels, each of twice the stride.
    inputs: indices of the features that are used. strides: the strides of the levels, inputs first.
    Raises ValueError unless each stride is twice the one before.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        stride: int,
        extra_blocks: ExtraFPNBlock,
        extra_levels: int,
    ) -> None:
        super().__init__()
        deepest = {level_stride: i for i, level_stride in enumerate(strides)}
        used = sorted(level_stride for level_stride in deepest if level_stride >= stride) or [max(strides)]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(used)):
            raise ValueError(
                f"The features have strides {', '.join(map(str, used))}, but objects are divided among the levels by "
                "their size for strides that double from each to the next. Fix: use other features of the backbone, or "
                "the neck simple_pyramid."
            )
        self.inputs = [deepest[level_stride] for level_stride in used]
        self.strides = (*used, *(used[-1] * 2 ** (i + 1) for i in range(extra_levels)))
        self.fpn = FeaturePyramidNetwork([channels[i] for i in self.inputs], width, extra_blocks)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """(B, C_i, H_i, W_i) each -> (B, width, h_l, w_l) for each of `strides`."""
        return list(self.fpn(OrderedDict((str(i), features[i]) for i in self.inputs)).values())


class StrideAnchors(AnchorGenerator):
    """torchvision's anchors at the given strides, in float32.

    torchvision divides the size of the padded batch by the map's size to get a stride, which is wrong unless the size
    is a multiple of the stride (48 instead of 64 for a map of 2 rows of 96 pixels). Its anchors are in half precision
    under autocast. If the size is a multiple of all strides, the anchors are torchvision's.

    scale: side of the square anchor in strides. ratios: height / width of each anchor of a cell.
    """

    def __init__(self, strides: Sequence[int], scale: float, ratios: Sequence[float]) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), (tuple(ratios),) * len(strides))
        self.strides = tuple(strides)

    @property
    def cell_anchors(self) -> list[Tensor]:
        """Anchors around the origin (R, 4) xyxy of each level. As buffers, they follow the device of the model."""
        return [self.get_buffer(f"cell_{i}").float() for i in range(len(self.sizes))]

    @cell_anchors.setter
    def cell_anchors(self, anchors: list[Tensor]) -> None:
        for i, cell in enumerate(anchors):  # torchvision rounds them; integers stay exact if the model is cast
            self.register_buffer(f"cell_{i}", cell.to(torch.int64), persistent=False)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """For each image the same (A, 4) xyxy in pixels, level by level."""
        sizes = [list(x.shape[-2:]) for x in feature_maps]
        anchors = torch.cat(self.grid_anchors(sizes, [[stride, stride] for stride in self.strides]))
        return [anchors] * len(image_list.image_sizes)
