"""The head of image classification: linear classifiers on pooled features, or on the tokens of a ViT."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from densevit.errors import ConfigError, counted
from densevit.interfaces import Class, Head, LastBlocks, LossContext, Losses, Outputs, Predictions, Targets
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.pooling import masked_mean
from densevit_heads.classifier.losses import class_shares, soft_cross_entropy
from densevit_heads.parts.class_map_layers import check_shares


class Classifier(Head):
    """A linear classifier of images, trained with cross-entropy.

    tokens: the input of the classifier. 0: the mean of the coarsest feature map over the image, without padding. 1: the
        class token of a ViT (Dosovitskiy et al. 2021). 2: its class and its distillation token, each with its own
        classifier (DeiT, Touvron et al. 2021, section 4). The tokens are the first ones of a
        `densevit.interfaces.TokenBackbone`, such as `vit`, whose last block the head runs.
    label_smoothing: the share of the label that is spread evenly over all classes (Szegedy et al. 2016, section 7).

    With two tokens, the logits are averaged in prediction, as in the authors' code (the paper adds the softmax
    outputs). Each classifier contributes half of the loss. A method that distils replaces `distillation_cross_entropy`,
    which otherwise uses the labels, by its own loss of `outputs["distillation_logits"]`.

    Labels may be mixtures of classes (`data.mixup`, `data.cutmix`). An image of class -1 is unlabelled.
    """

    task = "classification"
    required_targets = ("image_class",)

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: Sequence[Class],
        tokens: int = 0,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__(channels, strides, classes)
        if tokens not in (0, 1, 2):
            raise ValueError(f"tokens is {tokens}; expected 0 (pooled features), 1 (class token) or 2 (DeiT's tokens).")
        check_shares({"label_smoothing": label_smoothing})
        if not classes:
            raise ValueError("The data has no classes of images; at least one is needed.")
        self.tokens, self.label_smoothing = tokens, label_smoothing
        self.last_blocks = 1 if tokens else None
        self.classifier = nn.Linear(channels[-1], len(classes))
        self.distillation_classifier = nn.Linear(channels[-1], len(classes)) if tokens == 2 else None
        self.apply(truncated_normal)

    def forward(
        self, features: list[Tensor] | LastBlocks, padding_mask: Tensor, targets: list[Targets] | None = None
    ) -> Outputs:
        """Returns `logits` (B, K), with two tokens also `distillation_logits` (B, K). features: a `LastBlocks` if there
        are tokens.

        Raises ConfigError if the backbone has fewer tokens.
        """
        if not isinstance(features, LastBlocks):
            return {"logits": self.classifier(masked_mean(features[-1], padding_mask))}
        x = self._tokens(features)
        outputs: Outputs = {"logits": self.classifier(x[:, 0])}
        if self.distillation_classifier is not None:
            outputs["distillation_logits"] = self.distillation_classifier(x[:, 1])
        return outputs

    def _tokens(self, last: LastBlocks) -> Tensor:
        """The normalised tokens after the last block, (B, tokens, C)."""
        tokens = last.tokens.shape[1] - last.grid[0] * last.grid[1]
        if tokens < self.tokens:
            raise ConfigError(
                f"the classifier's tokens is {self.tokens}, but the backbone has {counted(tokens, 'token')} before its "
                "cells. Fix: set tokens to 0 for pooled features; or give the backbone class_token and, for 2, "
                "distillation_token."
            )
        x = last.tokens
        for block in last.blocks:
            x = block(x, None)
        return last.norm(x[:, : self.tokens])

    def loss_counts(self, targets: list[Targets]) -> dict[str, float]:
        return {"images": float(self._shares(targets, torch.device("cpu")).sum())}

    def loss(self, outputs: Outputs, targets: list[Targets], context: LossContext) -> Losses:
        """Returns `cross_entropy`, with two tokens also `distillation_cross_entropy`: means over the labelled images of
        all processes."""
        logits = outputs["logits"]
        shares = self._shares(targets, logits.device)
        terms = {"cross_entropy": soft_cross_entropy(logits, shares, context, self.label_smoothing)}
        if "distillation_logits" in outputs:
            second = soft_cross_entropy(outputs["distillation_logits"], shares, context, self.label_smoothing)
            terms = {"cross_entropy": terms["cross_entropy"] / 2, "distillation_cross_entropy": second / 2}
        return terms

    def _shares(self, targets: list[Targets], device: torch.device) -> Tensor:
        return class_shares([target.get("image_class") for target in targets], len(self.classes), device)

    def exported(
        self, outputs: Outputs, size: tuple[int, int], original_size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """Returns `class_scores` (B, K), the probabilities of the classes."""
        logits = outputs["logits"].float()
        if "distillation_logits" in outputs:
            logits = (logits + outputs["distillation_logits"].float()) / 2
        return {"class_scores": logits.softmax(1)}

    def predict(self, outputs: Outputs, targets: list[Targets]) -> list[Predictions]:
        """Returns `image_class` (), `image_score` () and `class_scores` (K,) per image."""
        return self.predict_exported(self.exported(outputs, (0, 0)), targets)

    @torch.no_grad()
    def predict_exported(self, exported: Mapping[str, Tensor], targets: list[Targets]) -> list[Predictions]:
        """The predictions of `predict` from the outputs of `exported`."""
        scores = exported["class_scores"]
        best, index = scores.max(1)
        return [
            {"image_class": index[i], "image_score": best[i], "class_scores": scores[i]} for i in range(len(targets))
        ]
