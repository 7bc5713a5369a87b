"""Panoptic segmentation by DAB-DETR."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from densevit.interfaces import Class
from densevit_heads.dab_detr.head import DabDetr
from densevit_heads.parts.panoptic.head import PanopticMaskHead


class DabDetrPanoptic(PanopticMaskHead, DabDetr):
    """Panoptic segmentation by DAB-DETR with DETR's mask head.

    With `position_bias`, the attention maps also get a bias from the box of each query.

    dab_detr: options of the head `dab_detr`. Other options: see `DetrPanoptic`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        dab_detr: Annotated[Mapping[str, Any] | None, DabDetr] = None,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        freeze_detector: bool = False,
        threshold: float = 0.85,
    ) -> None:
        DabDetr.__init__(self, channels, strides, classes, **(dab_detr or {}))
        self.add_masks(channels, strides, mask_weight, dice_weight, freeze_detector, threshold)
