"""The SegFormer head for semantic segmentation."""

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, Outputs, Targets
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.set_prediction.limits import check_counts
from densevit_heads.parts.class_map_layers import Classifier, Norm, check_shares, normalisation, resample
from densevit_heads.parts.class_maps import WeightedClassMapHead


class SegFormer(WeightedClassMapHead):
    """Semantic segmentation by SegFormer's all-MLP decoder (Xie et al. 2021, section 3.2, equation 4).

    A linear layer on each feature, bilinear upsampling to the finest map, and a linear layer on their concatenation,
    with a norm and ReLU; logits have the stride of the finest feature, 4 in the paper. Upsampling is linear over cells
    and its weights sum to 1, so the part of the last linear layer that belongs to a feature is applied before its
    upsampling. The results are equal, with a third of the multiply-adds.

    width: the channels of the linear layers, 256 in the paper for the backbones B0 and B1, 768 for B2 to B5.
    dropout: channel dropout before the classifier.
    norm: "sync": batch norm over all processes; "batch": per process; "group": group norm, for small batches.
    class_weights: class weights of the cross-entropy, or "balanced": from the frequencies so far (see `ClassWeights`).
    """

    finest_stride = 4

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        width: int = 256,
        dropout: float = 0.1,
        norm: Norm = "sync",
        class_weights: Weighting = None,
    ) -> None:
        super().__init__(channels, strides, classes)
        check_counts({"width": width})
        check_shares({"dropout": dropout})
        self.class_weights = ClassWeights(len(classes), class_weights)
        self.feature_strides = tuple(strides)
        self.project = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)  # coarsest feature first, as in the paper
        self.fuse_norm = normalisation(norm, width)
        self.classifier = Classifier(width, len(classes), dropout)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w) at the stride of the finest feature."""
        finest, size = self.feature_strides[0], features[0].shape[-2:]
        weights = self.fuse.weight.flatten(1).chunk(len(features), dim=1)[::-1]  # (width, width) each
        levels = zip(features, self.project, weights, self.feature_strides, strict=True)
        maps = []
        for x, project, weight, stride in levels:
            x = F.linear(project(x.permute(0, 2, 3, 1)), weight).permute(0, 3, 1, 2)  # (B, width, h, w)
            maps.append(resample(x, Fraction(stride, finest), size))
        fused = maps[0]
        for x in maps[1:]:
            fused = fused + x
        return {"logits": self.classifier(F.relu(self.fuse_norm(fused)))}

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return resample(logits, Fraction(self.feature_strides[0]), size)
