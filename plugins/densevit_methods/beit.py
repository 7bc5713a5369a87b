"""BEiT: BERT pre-training of image transformers (Bao et al. 2022), with the tokens of any tokenizer."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import ConfigError, PluginError
from densevit.interfaces import Batch
from densevit_methods.patch_masks import (
    MaskedModelling,
    MaskToken,
    blockwise_masking,
    mask_patches,
    pixels_of_patches,
)


class BEiT(MaskedModelling):
    """Predicts the visual tokens of masked blocks of patches by a linear layer and cross entropy (section 2.3).

    densevit has no tokenizer. `tokenizer` names your class and its options: {name: my_package.dalle:Tokenizer,
    weights: dall_e.pt}. It is an `nn.Module` with `vocabulary`, the number of tokens, and `stride`, the side of a
    token's cell in pixels. Its forward gets images (B, 3, H, W) in 0 ... 1, padded with 0 at the right and bottom, and
    returns indices (B, ceil(H / stride), ceil(W / stride)), int64. It is frozen, and not saved: a resumed run builds it
    again.

    The tokens are predicted from the backbone's coarsest feature of that stride. The mask token replaces pixels instead
    of the patch embedding, for any backbone; see `MaskToken`.

    mask_ratio: largest share of the patches of an image that are masked. smallest_block: least number of patches of a
        block, if that many remain.
    """

    external_modules = ("tokenizer",)
    term = "cross_entropy"

    def __init__(
        self, model: Any, tokenizer: dict[str, Any], mask_ratio: float = 0.4, smallest_block: int = 16
    ) -> None:
        super().__init__(model, mask_ratio)
        if smallest_block < 1:
            raise ValueError(f"smallest_block is {smallest_block}; a number of patches, at least 1, is expected.")
        self.tokenizer = build_tokenizer(tokenizer).requires_grad_(False).eval()
        backbone, self.stride = model.backbone, int(self.tokenizer.stride)
        if self.stride not in backbone.strides:
            raise ConfigError(
                f"method.tokenizer has tokens of {self.stride} pixels, but the features of {type(backbone).__name__} "
                f"have strides {list(backbone.strides)}. Fix: a tokenizer, or a backbone, of the same stride."
            )
        self.feature = max(i for i, stride in enumerate(backbone.strides) if stride == self.stride)
        self.masking = blockwise_masking(mask_ratio, smallest_block)
        self.mask_token = MaskToken(backbone, self.stride)
        self.classifier = nn.Linear(backbone.channels[self.feature], int(self.tokenizer.vocabulary))
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def errors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cross entropy of each masked patch, 0 elsewhere, and the masked patches, (B, rows, columns) each."""
        padding = batch["padding_mask"]
        masked, _ = mask_patches(batch, self.stride, self.masking)
        with torch.no_grad():
            tokens = self.tokenizer((batch["images"].float() / 255).masked_fill(padding[:, None], 0))
        if tokens.shape != masked.shape:
            raise PluginError(
                f"method.tokenizer returned tokens of shape {tuple(tokens.shape)} for images of shape "
                f"{tuple(batch['images'].shape)}; {tuple(masked.shape)} is expected, as its stride is {self.stride}."
            )
        pixels = model.normalise(batch["images"], padding)
        pixels = self.mask_token(pixels, pixels_of_patches(masked, self.stride, padding))
        logits = self.classifier(model.backbone(pixels)[self.feature].permute(0, 2, 3, 1))  # (B, rows, columns, K)
        errors = F.cross_entropy(logits.float().flatten(0, 2), tokens.flatten(), reduction="none").view_as(masked)
        masked = masked.to(errors.device, non_blocking=True)
        return errors * masked, masked


def build_tokenizer(options: dict[str, Any]) -> Any:
    """Builds the class that `name` gives as module:Class. Raises ConfigError or PluginError."""
    name = options.get("name")
    module, _, class_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not module or not class_name:
        raise ConfigError(
            f"method.tokenizer.name is {name!r}; a class as module:Class is expected, as in "
            "{name: my_package.dalle:Tokenizer}."
        )
    try:
        cls = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"method.tokenizer.name is {name!r}, which cannot be imported: {error}. Fix: install the package, or "
            "correct the name."
        ) from error
    tokenizer = cls(**{key: value for key, value in options.items() if key != "name"})
    lacking = [part for part in ("vocabulary", "stride") if not isinstance(getattr(tokenizer, part, None), int)]
    if lacking or not isinstance(tokenizer, nn.Module):
        raise PluginError(
            f"method.tokenizer.name is {name!r}; an nn.Module with the numbers vocabulary and stride is expected"
            + (f", but it has no {' and no '.join(lacking)}." if lacking else ".")
        )
    return tokenizer
