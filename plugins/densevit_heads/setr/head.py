"""The SETR head: features in, a map of classes out."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from densevit.interfaces import Class, Head, Losses, Outputs, Predictions, Targets
from densevit.layers.chunked_argmax import chunked_argmax
from densevit.losses.class_weights import ClassWeights, Weighting
from densevit.losses.segmentation import cross_entropy, dice, hard_pixels, label_maps
from densevit_heads.setr.decoders import Classifier, MultiLevelDecoder, Norm, UpsamplingDecoder, factors_to, on_grid


class Setr(Head):
    """Semantic segmentation by one of SETR's decoders (Zheng et al. 2021, section 3.3).

    With the published sizes, which are the defaults, the arithmetic is that of mmsegmentation's SETR checkpoints
    (`setr_vit-l_{naive,pup,mla}`, of Cityscapes and ADE20K): structure, norms, and bilinear upsampling with
    `align_corners` off. They stand on a ViT-L/16 without final norm (`feature_norm: false`), on its features after
    blocks 10, 15, 20 and 24 ("mla": 6, 12, 18, 24). Parameters with that backbone and the auxiliary heads, for
    Cityscapes (768 x 768, 19 classes): naive 306.5 M, PUP 318.5 M, MLA 310.7 M; for ADE20K (512 x 512, 150 classes):
    305.4 M, 317.3 M, 309.6 M.

    decoder: "naive": a 1x1 convolution and 4x; "pup": progressive upsampling, four 3x3 convolutions with 2x each, on a
        map of a stride below 16 as many as reach the pixels; "mla": multi-level aggregation, of maps of one stride or
        a pyramid, to four times the finest map's cells, or a stride of 4 if that is coarser.
    feature: the number, from 1, of the map that "naive" and "pup" decode; None: the last, which is the deepest.
    width: channels of the convolutions, in "mla" of the aggregated maps. branch_width: of "mla"'s branches.
    auxiliary: numbers of the maps with a loss of their own; None: all but the decoded one, in "mla" all; (): none.
        "naive": as the decoder. "pup": two 3x3 convolutions with 4x each. "mla": a classifier on the aggregated map.
    norm: "sync", batch norm over all processes; "batch", each process's own; "group", for small batches, by
        the whole map, padding included.
    dropout: of whole channels before a classifier.
    class_weights: what the pixels of each class weigh in the cross-entropy; "balanced": rare ones more, by the labels
        seen so far (see `ClassWeights`).
    dice: the weight of a dice loss beside the cross-entropy; 0 for none.
    ohem_threshold: only pixels whose class is less probable than this are learnt from, but `ohem_min_kept` an image in
        any case (mmsegmentation: 0.7 and 100,000; 0: only so many); None: all. Dice goes by all in any case.
    """

    task = "segmentation"
    needs = ("semantic",)

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
    ) -> None:
        super().__init__(channels, strides, classes)
        N, K = len(channels), len(classes)
        least = {"width": (width, 1), "branch_width": (branch_width, 1), "auxiliary_weight": (auxiliary_weight, 0)}
        least |= {"dice": (dice, 0), "ohem_min_kept": (ohem_min_kept, 0)}
        for option, (number, floor) in least.items():
            if not floor <= number < float("inf"):
                raise ValueError(f"{option} is {number}; it is at least {floor}.")
        shares = {"dropout": dropout, "label_smoothing": label_smoothing, "ohem_threshold": ohem_threshold or 0.0}
        for option, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"{option} is {share}; it is at least 0 and below 1.")
        if decoder == "mla" and feature is not None:
            raise ValueError("feature chooses one map, and 'mla' decodes all: leave it out, or set decoder to pup.")
        decoded = N if feature is None else feature
        if auxiliary is None:
            auxiliary = tuple(i for i in range(1, N + 1) if decoder == "mla" or i != decoded)
        _check_features("feature", (decoded,), N)
        _check_features("auxiliary", auxiliary, N)
        self.feature, self.auxiliary_features = decoded - 1, tuple(i - 1 for i in auxiliary)
        self.auxiliary_weight, self.label_smoothing, self.dice_weight = auxiliary_weight, label_smoothing, dice
        self.ohem_threshold, self.ohem_min_kept = ohem_threshold, ohem_min_kept
        self.class_weights = ClassWeights(K, class_weights)

        self.decode: UpsamplingDecoder | MultiLevelDecoder
        if decoder == "mla":
            factor = min(4, max(1, round(strides[0] / 4)))
            self.decode = MultiLevelDecoder(channels, strides, K, width, branch_width, factor, norm, dropout)
            self.auxiliary = nn.ModuleList(Classifier(width, K, dropout) for _ in auxiliary)
            self.auxiliary_strides = [Fraction(strides[i]) for i in self.auxiliary_features]
        else:
            kernel = 1 if decoder == "naive" else 3
            main, beside = ((4, 1), (4, 1)) if decoder == "naive" else ((2, 4), (4, 2))  # factors and stages

            def upsampling(i: int, factor: int, stages: int) -> UpsamplingDecoder:
                factors = factors_to(strides[i], factor, stages)
                return UpsamplingDecoder(channels[i], strides[i], K, width, kernel, factors, norm, dropout)

            self.decode = upsampling(self.feature, *main)
            others = [upsampling(i, *beside) for i in self.auxiliary_features]
            self.auxiliary = nn.ModuleList(others)
            self.auxiliary_strides = [head.logits_stride for head in others]

    def forward(self, features: list[Tensor], padding_mask: Tensor, targets: list[Targets] | None = None) -> Outputs:
        """`logits` (B, K, h, w); in training also `auxiliary`, one such map for each of the option's."""
        if isinstance(self.decode, MultiLevelDecoder):
            logits, maps = self.decode(features)
        else:
            logits, maps = self.decode(features[self.feature]), features
        if not (self.training and self.auxiliary_features):
            return {"logits": logits}
        auxiliary = [head(maps[i]) for i, head in zip(self.auxiliary_features, self.auxiliary, strict=True)]
        return {"logits": logits, "auxiliary": auxiliary}

    def loss(self, outputs: Outputs, targets: list[Targets]) -> Losses:
        """`cross_entropy`, `dice` where it is chosen, and `auxiliary`, the same of the other maps, where there are any.

        Each is a mean over the labelled pixels of all processes.
        """
        logits = outputs["logits"]
        labels = label_maps(targets, logits.device)
        weights = self.class_weights(labels)
        losses = self._terms(logits, self.decode.logits_stride, labels, weights)
        if self.auxiliary_features:
            others = logits.new_zeros(())  # there are no such maps in evaluation
            if "auxiliary" in outputs:
                for x, stride in zip(outputs["auxiliary"], self.auxiliary_strides, strict=True):
                    others = others + torch.stack(list(self._terms(x, stride, labels, weights).values())).sum()
            losses["auxiliary"] = self.auxiliary_weight * others
        return losses

    def _terms(self, logits: Tensor, stride: Fraction, labels: Tensor, weights: Tensor | None) -> Losses:
        """The losses of one map, its logits resized to the labels (B, H, W)."""
        logits = on_grid(logits.float(), stride, labels.shape[1:])
        learnt = labels
        if self.ohem_threshold is not None:
            learnt = hard_pixels(logits, labels, self.ohem_threshold, self.ohem_min_kept)
        losses = {"cross_entropy": cross_entropy(logits, learnt, weights, self.label_smoothing)}
        if self.dice_weight:
            losses["dice"] = self.dice_weight * dice(logits, labels)
        return losses

    @torch.no_grad()
    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """`semantic` (H, W) uint8 an image, in original pixels: the likeliest class.

        Logits go to the picture's grid, lose their padding, and go on to original pixels, some classes at a time.
        """
        return [
            {"semantic": chunked_argmax(own, self._on_pixels, tuple(target["size"]), tuple(target["original_size"]))}
            for own, target in zip(outputs["logits"].float(), targets, strict=True)
        ]

    def _on_pixels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return on_grid(logits, self.decode.logits_stride, size)

    def maps(self, outputs: Outputs, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) in fp32. size: of the batch's grid in pixels, or of its top left part."""
        maps = on_grid(outputs["logits"].float(), self.decode.logits_stride, size)
        if tuple(maps.shape[-2:]) != tuple(size):
            raise ValueError(f"The maps cover {tuple(maps.shape[-2:])} pixels; they have no {tuple(size)} to give.")
        return maps

    def read_maps(self, maps: Tensor) -> Predictions:
        """(B, K, h, w) logits or probabilities -> `semantic` (B, h, w) uint8: the likeliest class."""
        return {"semantic": maps.argmax(1).to(torch.uint8)}


def _check_features(option: str, numbers: Sequence[int], N: int) -> None:
    if not all(1 <= number <= N for number in numbers) or len(set(numbers)) < len(numbers):
        given = ", ".join(map(str, numbers))
        raise ValueError(
            f"{option} is {given}; the backbone gives {N} features: expected numbers from 1 to {N}, once each."
        )
