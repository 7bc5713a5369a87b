"""Panoptic segmentation by a DETR whose queries are boxes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from densevit.interfaces import Class
from densevit_heads.box_query_detr.head import BoxQueryDetr
from densevit_heads.parts.panoptic.head import PanopticMaskHead


class BoxQueryDetrPanoptic(PanopticMaskHead, BoxQueryDetr):
    """`BoxQueryDetr` with DETR's mask head (Carion et al. 2020, section 4.4).

    With `position_bias`, the attention maps also get a bias from the box of each query.

    box_query_detr: options of the head `box_query_detr`. Other options: see `DetrPanoptic`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        box_query_detr: Annotated[Mapping[str, Any] | None, BoxQueryDetr] = None,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        freeze_detector: bool = False,
        threshold: float = 0.85,
    ) -> None:
        BoxQueryDetr.__init__(self, channels, strides, classes, **(box_query_detr or {}))
        self.add_masks(channels, strides, mask_weight, dice_weight, freeze_detector, threshold)
