"""Feature distillation: a backbone learns the features of a larger, frozen one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from densevit import config as configs
from densevit.config import ModelSections
from densevit.interfaces import Batch, LossContext, Losses, Method
from densevit.layers.positions import mask_on_grid
from densevit.weights.pretrained_models import build_pretrained


class FeatureDistillation(Method):
    """Learns the features of a frozen teacher backbone, together with the losses of the heads if there are any.

    The mean squared error of features that are normalised over the channels, without learned scale and shift, as in
    FD (Wei et al. 2022). The coarsest features of both backbones belong together, the next finer ones, and so on.

    teacher: the keys of a section `backbone`: name, options and `weights`.
    """

    external_modules = ("teacher",)  # is not saved in checkpoints

    def __init__(self, model: nn.Module, teacher: dict[str, Any]) -> None:
        super().__init__(model)
        section = configs.section("backbone", {**teacher, "freeze": True}, "method.teacher")
        sections = ModelSections(backbone=section, heads={})
        self.teacher, _ = build_pretrained(sections, {})
        backbone, target = model.backbone, self.teacher.backbone
        self.levels = min(len(backbone.channels), len(target.channels))
        pairs = zip(backbone.channels[-self.levels :], target.channels[-self.levels :], strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(channels, target_channels, 1) for channels, target_channels in pairs)

    def training_step(self, model: nn.Module, batch: Batch, context: LossContext) -> Losses:
        features = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
        losses = {"distillation": self.errors(features, batch).mean()}
        outputs = {}
        for name, head in model.heads.items():
            inputs = model.head_inputs(name, features, batch["padding_mask"], batch["images"])
            outputs[name] = head(inputs, batch["padding_mask"], batch["targets"])
        return losses | model.losses_of(outputs, batch["targets"], context)

    def validation_losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.errors(model.backbone(model.normalise(batch["images"], batch["padding_mask"])), batch)

    def errors(self, features: list[Tensor], batch: Batch) -> Tensor:
        """The error of each image (B,), over the cells inside of it."""
        with torch.no_grad():
            pixels = self.teacher.normalise(batch["images"], batch["padding_mask"])
            targets = self.teacher.backbone(pixels)[-self.levels :]
        errors = []
        for project, feature, target in zip(self.projections, features[-self.levels :], targets, strict=True):
            size = target.shape[-2:]
            predicted = functional.interpolate(project(feature), size, mode="bilinear", align_corners=False)
            squared = (normalised(predicted) - normalised(target)).square().mean(1)  # (B, h, w)
            inside = ~mask_on_grid(batch["padding_mask"], tuple(size))
            errors.append((squared * inside).sum((1, 2)) / inside.sum((1, 2)))
        return torch.stack(errors).mean(0)


def normalised(features: Tensor) -> Tensor:
    """Features (B, C, h, w) with mean 0 and variance 1 over the channels, in float32."""
    x = features.float().movedim(1, -1)
    return functional.layer_norm(x, x.shape[-1:]).movedim(-1, 1)
