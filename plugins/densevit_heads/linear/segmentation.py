"""A linear head for semantic segmentation."""

from collections.abc import Sequence

from torch import Tensor

from densevit.interfaces import Class, Outputs, Targets
from densevit.set_prediction.limits import check_classes
from densevit_heads.linear.layer import LinearLayer
from densevit_heads.parts.class_maps import ClassMapHead


class LinearSegmentation(ClassMapHead):
    """Semantic segmentation by batch norm and one linear layer on the cells of a backbone's maps.

    The head of the linear evaluation of DINOv2 (Oquab et al. 2024, section 7.4) and DINOv3 (Siméoni et al. 2025,
    section 6.1). Logits are upsampled bilinearly to pixels. DINOv3 uses dropout 0.1 on the last map; DINOv2 none, on
    one or four maps.

    features: numbers of the maps, from 1; None: the last. Coarser maps are upsampled to the first of them. dropout: the
        share of channels that are set to 0, before the batch norm.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        features: tuple[int, ...] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_classes(classes, "segmentation")
        self.linear = LinearLayer(channels, strides, len(classes), features, dropout)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w) at the stride of the first map."""
        return {"logits": self.linear(features)}

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return self.linear.to_pixels(logits, size)
