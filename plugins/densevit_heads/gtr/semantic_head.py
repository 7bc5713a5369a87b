"""GTR's head for semantic segmentation (Feng et al. 2026)."""

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from densevit.interfaces import Class, Outputs, Targets
from densevit.set_prediction.limits import check_counts
from densevit_heads.parts.class_map_layers import Classifier, Norm, check_shares, convolution, resample
from densevit_heads.parts.class_maps import ClassMapHead


class GtrSemantic(ClassMapHead):
    """Semantic segmentation by a 3x3 convolution, norm, ReLU and a classifier on the finest feature.

    A head of fully convolutional networks (Long et al. 2015) on a neck of one level, of stride 8 in GTR. Logits are
    upsampled bilinearly to pixels.

    width: channels of the convolution. dropout: channel dropout before the classifier.
    norm: "sync": batch norm over all processes; "batch": per process; "group": group norm, for small batches.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        dropout: float = 0.1,
        norm: Norm = "sync",
    ) -> None:
        super().__init__(channels, strides, classes)
        check_counts({"width": width})
        check_shares({"dropout": dropout})
        self.stride = strides[0]
        self.convolution = convolution(channels[0], width, 3, norm)
        self.classifier = Classifier(width, len(classes), dropout)

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w) at the stride of the finest feature."""
        return {"logits": self.classifier(self.convolution(features[0]))}

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return resample(logits, Fraction(self.stride), size)
