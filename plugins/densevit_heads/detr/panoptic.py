"""Panoptic segmentation by DETR (Carion et al. 2020, section 4.4)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from densevit.interfaces import Class
from densevit_heads.detr.head import Detr
from densevit_heads.parts.panoptic.head import PanopticMaskHead


class DetrPanoptic(PanopticMaskHead, Detr):
    """Panoptic segmentation by DETR with a mask head (Carion et al. 2020, section 4.4).

    With a ResNet-50 and the defaults, the model has 42.9 M parameters, including the backbone.

    detr: options of the head `detr`; transformer.width is also a multiple of 16.
    mask_weight, dice_weight: the weights of the focal loss and the dice loss of masks. In joint training, a small
        `trainer.clip_grad_norm` scales the gradients of masks down to AdamW's eps, and masks are not learned: raise it
        (10 instead of 0.1).
    freeze_detector: trains the mask head only, with the losses `mask` and `dice`; no gradient reaches the backbone.
    threshold: least score of a segment in the panoptic map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        detr: Annotated[Mapping[str, Any] | None, Detr] = None,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        freeze_detector: bool = False,
        threshold: float = 0.85,
    ) -> None:
        Detr.__init__(self, channels, strides, classes, **(detr or {}))
        self.add_masks(channels, strides, mask_weight, dice_weight, freeze_detector, threshold)
