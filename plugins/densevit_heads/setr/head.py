"""The SETR head for semantic segmentation."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Class, LossContext, Losses, Outputs, Targets
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, dice, hard_pixels, label_counts, label_maps
from densevit.set_prediction.limits import check_counts
from densevit_heads.parts.class_map_layers import Classifier, Norm, check_shares, resample
from densevit_heads.parts.class_maps import ClassMapHead
from densevit_heads.setr.decoders import MultiLevelDecoder, UpsamplingDecoder, factors_to


class Setr(ClassMapHead):
    """Semantic segmentation by one of SETR's decoders (Zheng et al. 2021, section 3.3).

    The defaults match mmsegmentation's SETR checkpoints (`setr_vit-l_{naive,pup,mla}` for Cityscapes and ADE20K) in
    structure, norms and bilinear upsampling with `align_corners=False`. Their backbone is ViT-L/16 without final norm
    (`feature_norm: false`), with features after blocks 10, 15, 20 and 24 ("mla": 6, 12, 18, 24). Parameters including
    backbone and auxiliary heads, for Cityscapes (768 x 768, 19 classes): naive 306.5 M, PUP 318.5 M, MLA 310.7 M; for
    ADE20K (512 x 512, 150 classes): 305.4 M, 317.3 M, 309.6 M.

    decoder: "naive": a 1x1 convolution and 4x upsampling; "pup": progressive upsampling, four 3x3 convolutions with 2x
        each, fewer for strides below 16 so as not to exceed pixel resolution; "mla": multi-level aggregation of maps of
        equal stride or of a pyramid, upsampled by 4 or to stride 4, whichever is coarser.
    feature: number, from 1, of the map that "naive" and "pup" decode; None: the last.
    width: channels of the convolutions ("mla": of the aggregated maps). branch_width: channels of the "mla" branches.
    auxiliary: numbers of the maps with an auxiliary loss; None: all but the decoded one ("mla": all); (): none.
        "naive": same as the decoder. "pup": two 3x3 convolutions with 4x each. "mla": a classifier on aggregated maps.
    norm: "sync": batch norm over all processes; "batch": per process; "group": group norm, for small batches, with
        statistics that include padding.
    dropout: channel dropout before a classifier.
    class_weights: class weights of the cross-entropy, or "balanced": from the frequencies so far (see `ClassWeights`).
    dice: weight of an additional dice loss; 0 disables.
    ohem_threshold: the cross-entropy uses only pixels whose class has a lower probability, but at least `ohem_min_kept`
        per image (mmsegmentation: 0.7 and 100,000; 0: exactly that number); None: all pixels. Dice uses all pixels.
    padded: the prediction for images that end within a cell of the features. "crop": cuts the upsampled logits at the
        image's edge; "stretch": resizes the logits of whole cells to the image, as mmsegmentation does. Equal for sizes
        that are multiples of the stride.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        decoder: Literal["naive", "pup", "mla"] = "pup",
        feature: int | None = None,
        width: int = 256,
        branch_width: int = 128,
        auxiliary: tuple[int, ...] | None = None,
        auxiliary_weight: float = 0.4,
        norm: Norm = "sync",
        dropout: float = 0.0,
        class_weights: Weighting = None,
        label_smoothing: float = 0.0,
        dice: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
        padded: Literal["crop", "stretch"] = "crop",
    ) -> None:
        super().__init__(channels, strides, classes)
        N, K = len(channels), len(classes)
        minimums = {"width": (width, 1), "branch_width": (branch_width, 1), "auxiliary_weight": (auxiliary_weight, 0)}
        minimums |= {"dice": (dice, 0), "ohem_min_kept": (ohem_min_kept, 0)}
        for option, (number, minimum) in minimums.items():
            if not minimum <= number < float("inf"):
                raise ValueError(f"{option} is {number}; it must be at least {minimum}.")
        check_counts({"width": width}, maximum=65536)
        check_shares({"dropout": dropout, "label_smoothing": label_smoothing, "ohem_threshold": ohem_threshold or 0.0})
        if decoder == "mla" and feature is not None:
            raise ValueError(
                "feature selects one map, but 'mla' decodes all. Fix: remove feature, or set decoder to pup."
            )
        decoded = N if feature is None else feature
        if auxiliary is None:
            auxiliary = tuple(i for i in range(1, N + 1) if decoder == "mla" or i != decoded)
        _check_features("feature", (decoded,), N)
        _check_features("auxiliary", auxiliary, N)
        self.feature, self.auxiliary_features = decoded - 1, tuple(i - 1 for i in auxiliary)
        self.auxiliary_weight, self.label_smoothing, self.dice_weight = auxiliary_weight, label_smoothing, dice
        self.ohem_threshold, self.ohem_min_kept = ohem_threshold, ohem_min_kept
        self.class_weights = ClassWeights(K, class_weights)
        self.padded, self.stride = padded, strides[0] if decoder == "mla" else strides[decoded - 1]

        self.decode: UpsamplingDecoder | MultiLevelDecoder
        if decoder == "mla":
            factor = min(4, max(1, round(strides[0] / 4)))
            self.decode = MultiLevelDecoder(channels, strides, K, width, branch_width, factor, norm, dropout)
            self.auxiliary = nn.ModuleList(Classifier(width, K, dropout) for _ in auxiliary)
            self.auxiliary_strides = [Fraction(strides[i]) for i in self.auxiliary_features]
        else:
            kernel = 1 if decoder == "naive" else 3
            main, auxiliary_stages = ((4, 1), (4, 1)) if decoder == "naive" else ((2, 4), (4, 2))  # factors and stages

            def upsampling(i: int, factor: int, stages: int) -> UpsamplingDecoder:
                factors = factors_to(strides[i], factor, stages)
                return UpsamplingDecoder(channels[i], strides[i], K, width, kernel, factors, norm, dropout)

            self.decode = upsampling(self.feature, *main)
            heads = [upsampling(i, *auxiliary_stages) for i in self.auxiliary_features]
            self.auxiliary = nn.ModuleList(heads)
            self.auxiliary_strides = [head.logits_stride for head in heads]

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """Returns `logits` (B, K, h, w), and in training `auxiliary`, a list of logits of the auxiliary heads."""
        if isinstance(self.decode, MultiLevelDecoder):
            logits, maps = self.decode(features)
        else:
            logits, maps = self.decode(features[self.feature]), features
        if not (self.training and self.auxiliary_features):
            return {"logits": logits}
        auxiliary = [head(maps[i]) for i, head in zip(self.auxiliary_features, self.auxiliary, strict=True)]
        return {"logits": logits, "auxiliary": auxiliary}

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        if self.ohem_threshold is not None or self.class_weights.balanced:
            return {}  # depend on predictions and on earlier batches
        return label_counts(targets, self.class_weights.fixed)

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, `dice` if enabled, and `auxiliary`, the same losses of the auxiliary heads, summed.

        Each is a mean over the labelled pixels of all processes.
        """
        logits = outputs["logits"]
        labels = label_maps(targets, logits.device)
        weights = self.class_weights(labels, context)
        losses = self._terms(logits, self.decode.logits_stride, labels, weights, context)
        if self.auxiliary_features:
            auxiliary = logits.new_zeros(())  # stays 0 in evaluation
            if "auxiliary" in outputs:
                for x, stride in zip(outputs["auxiliary"], self.auxiliary_strides, strict=True):
                    terms = self._terms(x, stride, labels, weights, context)
                    auxiliary = auxiliary + torch.stack(list(terms.values())).sum()
            losses["auxiliary"] = self.auxiliary_weight * auxiliary
        return losses

    def _terms(
        self, logits: Tensor, stride: Fraction, labels: Tensor, weights: Tensor | None, context: LossContext
    ) -> Losses:
        """Losses of one map of logits, resized to the labels (B, H, W)."""
        logits = resample(logits.float(), stride, labels.shape[1:])
        selected = labels
        if self.ohem_threshold is not None:
            selected = hard_pixels(logits, labels, self.ohem_threshold, self.ohem_min_kept)
        losses = {"cross_entropy": cross_entropy(logits, selected, context, weights, self.label_smoothing)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * dice(logits, labels, context)
        return losses

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        stride = self.decode.logits_stride
        if self.padded == "crop":
            return resample(logits, stride, size)
        rows, columns = (-(-n // self.stride) * self.stride // stride for n in size)  # of the cells that cover the size
        return F.interpolate(logits[..., :rows, :columns], size=size, mode="bilinear", align_corners=False)


def _check_features(option: str, numbers: Sequence[int], N: int) -> None:
    if not all(1 <= number <= N for number in numbers) or len(set(numbers)) < len(numbers):
        listed = ", ".join(map(str, numbers))
        raise ValueError(
            f"{option} is {listed}; the backbone has {N} feature maps. Expected distinct numbers from 1 to {N}."
        )
