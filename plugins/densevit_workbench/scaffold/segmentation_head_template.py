"""Template of a segmentation head: convolutions on one feature, to be replaced by your own layers."""

MODULE = '''\
"""A segmentation head for densevit."""

from collections.abc import Sequence

import densevit
import torch
from densevit.interfaces import LossContext, Losses, Outputs, Predictions, Targets
from densevit.losses import cross_entropy, label_counts, label_maps
from torch import Tensor, nn
from torch.nn import functional


class $cls(densevit.DenseHead):
    """Class scores of the finest feature of stride 8 or more (FCN, Long et al. 2015)."""

    task = "segmentation"
    required_targets = ("semantic",)

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[densevit.Class],
        width: int = 64,
    ) -> None:
        super().__init__(channels, strides, classes)
        self.level = next((i for i, stride in enumerate(strides) if stride >= 8), len(strides) - 1)
        self.stride = strides[self.level]
        # Put your own layers here.
        first = nn.Conv2d(channels[self.level], width, 3, padding=1)
        self.layers = nn.Sequential(first, nn.GELU(), nn.Conv2d(width, len(classes), 1))

    def forward(
        self,
        features: list[Tensor],
        padding_mask: Tensor,
        targets: list[Targets] | None = None,
    ) -> Outputs:
        return {"logits": self.layers(features[self.level])}  # (B, K, ceil(H / s), ceil(W / s))

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size): resized by the stride, and cropped at the top left."""
        x = outputs["logits"].float()
        full = self.stride * x.shape[2], self.stride * x.shape[3]
        x = functional.interpolate(x, full, mode="bilinear")
        return x[..., : size[0], : size[1]]

    def read_maps(self, maps: Tensor) -> Predictions:
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        labels = label_maps(targets, outputs["logits"].device)  # (B, H, W), IGNORE: no label
        maps = self.maps(outputs, labels.shape[1:])
        return {"cross_entropy": cross_entropy(maps, labels, context)}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return label_counts(targets)

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`semantic` (h, w) of each image: cropped to `size`, resized to `original_size`."""
        predictions = []
        for logits, target in zip(outputs["logits"], targets, strict=True):
            maps = self.maps({"logits": logits[None]}, target["size"])  # (1, K, h, w)
            maps = functional.interpolate(maps, tuple(target["original_size"]), mode="bilinear")
            predictions.append({"semantic": self.read_maps(maps)["semantic"][0]})
        return predictions
'''

CONFIG = """\
# $cls on a Swin, on the built-in scenes:
#   densevit train configs/$name.yaml
# The same on your own label maps:
#   densevit train configs/$name.yaml data=label_maps data.root=FOLDER
base: scenes/setr_swin
heads:
  segmentation: {name: $name}
"""
