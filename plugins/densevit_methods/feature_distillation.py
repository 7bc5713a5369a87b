"""Feature distillation (Wei et al. 2022, "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via Feature
Distillation"): a backbone learns the features of a frozen backbone, on images without labels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext, Losses
from densevit.layers.positions import mask_on_grid
from densevit.layers.precision import autocast_off
from densevit_methods.teachers import BackboneSource, load_backbone
from densevit_methods.unlabelled import Unlabelled

_BETA = 2.0  # of the smooth L1 loss, as in the paper


class FeatureDistillation(Unlabelled):
    """Learns the features of a frozen teacher, together with the losses of the heads if there are any.

    The teacher's features are normalised over the channels without learned scale and shift, and compared by a smooth L1
    loss with a linear projection (a 1x1 convolution) of the student's (section 3.1). If the grids differ, the teacher's
    features are resized to the student's grid. Both see the same images, each in its own normalisation.

    teacher: a source of `densevit.load`, such as a run folder, a model file or `hf:ORG/NAME`; or name, options and
        `weights` of a backbone, as in the section `backbone`.
    levels: the number of feature maps, counted from the last map of both backbones; 1 in the paper. Earlier maps are
        paired in the same order, as hints of FitNets (Romero et al. 2015).
    """

    external_modules = ("teacher",)
    pooling = 1  # side of the cells of pixels over which the teacher's images are averaged

    def __init__(self, model: Any, teacher: BackboneSource, levels: int = 1) -> None:
        super().__init__(model)
        for name, head in model.heads.items():
            if head.last_blocks is not None:
                raise ConfigError(
                    f"heads.{name} takes tokens of the backbone, whose features are distilled. Fix: heads: {{}}, "
                    "and train the head from the result."
                )
        self.teacher = load_backbone(teacher)
        channels, teacher_channels = model.backbone.channels, self.teacher.backbone.channels
        if not 1 <= levels <= min(len(channels), len(teacher_channels)):
            raise ConfigError(
                f"method.levels is {levels}; the student has {len(channels)} feature maps, the teacher "
                f"{len(teacher_channels)}. Fix: a number from 1 to the smaller one."
            )
        self.levels = levels
        self.projections = nn.ModuleList(
            nn.Conv2d(width, teacher_width, 1)
            for width, teacher_width in zip(channels[-levels:], teacher_channels[-levels:], strict=True)
        )
        self.strides = [*model.backbone.strides[-levels:]]

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        features = model.backbone(model.normalise(batch["images"], batch["padding_mask"]))
        errors = self.errors(features, batch)
        losses = {"feature_distillation": errors.sum() / context.mean(errors.new_tensor(float(len(errors))))}
        outputs = {}
        for name, head in model.heads.items():
            inputs = model.head_inputs(name, features, batch["padding_mask"], batch["images"])
            outputs[name] = head(inputs, batch["padding_mask"], batch["targets"])
        return losses | model.losses_of(outputs, batch["targets"], context)

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        return self.errors(model.backbone(model.normalise(batch["images"], batch["padding_mask"])), batch)

    def errors(self, features: list[Tensor], batch: Batch) -> Tensor:
        """The loss of each image (B,), the mean over the cells inside the image, and over levels.

        features: the student's.
        """
        padding = batch["padding_mask"]
        levels = []
        for project, feature, target in zip(
            self.projections, features[-self.levels :], self.targets(batch), strict=True
        ):
            predicted = project(feature)
            with autocast_off(predicted.device):
                each = self.distances(predicted.float(), target)  # (B, h, w)
                inside = ~mask_on_grid(padding, (feature.shape[2], feature.shape[3]))
                levels.append((each * inside).sum((1, 2)) / inside.sum((1, 2)))
        return torch.stack(levels).mean(0)

    def distances(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The loss (B, h, w) of features (B, C, h, w): smooth L1 to normalised targets, the mean over the channels."""
        target = F.layer_norm(target.movedim(1, -1), target.shape[1:2]).movedim(-1, 1)
        return F.smooth_l1_loss(predicted, target, reduction="none", beta=_BETA).mean(1)

    @torch.no_grad()
    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's features on the student's grids, in float32.

        A teacher with a fixed input size sees the images resized to it.
        """
        backbone, padding = self.teacher.backbone, batch["padding_mask"]
        pixels = self.teacher.normalise(batch["images"], padding)
        height, width = pixels.shape[2:]
        size = backbone.input_size
        seen = size or (height / self.pooling, width / self.pooling)
        if size is None and self.pooling > 1:
            pixels = F.avg_pool2d(pixels, self.pooling, ceil_mode=True)
        elif size is not None and size != (height, width):
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=True)
        targets = []
        features = backbone(pixels)[-self.levels :]
        for x, stride, other in zip(features, self.strides, backbone.strides[-self.levels :], strict=True):
            grid = -(-height // stride), -(-width // stride)
            cell = stride / other * seen[0] / height, stride / other * seen[1] / width
            with autocast_off(x.device):
                targets.append(resampled(x.float(), ~mask_on_grid(padding, (x.shape[2], x.shape[3])), grid, cell))
        return targets


def resampled(features: Tensor, inside: Tensor, size: tuple[int, int], cell: tuple[float, float]) -> Tensor:
    """Resizes feature maps to a grid with cells of another size, without the features of padding.

    Linear interpolation between the centres of cells, or, for larger cells, a triangular filter of twice their width
    (antialiasing). Exact also if the cells at the border extend beyond the image, where the grids cover different
    areas.

    features: (B, C, h, w). inside: (B, h, w) bool, False in the padding. cell: height and width of a cell of the new
    grid in cells of the old one. Returns (B, C, *size).
    """
    rows, columns = (
        _filter(old, new, width, features) for old, new, width in zip(features.shape[2:], size, cell, strict=True)
    )
    weights = inside.to(features.dtype)[:, None]
    total = rows @ weights @ columns.T  # (B, 1, *size)
    return rows @ (features * weights) @ columns.T / total.clamp(min=1e-6)


def _filter(old: int, new: int, width: float, like: Tensor) -> Tensor:
    """The weights (new, old) of the old cells for each new cell, along one dimension; rows sum to 1."""
    centres = (torch.arange(new, device=like.device) + 0.5) * width - 0.5  # in old cells
    distances = (torch.arange(old, device=like.device) - centres[:, None]).abs()
    weights = (1 - distances / max(width, 1.0)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True).clamp(min=1e-6)).to(like.dtype)
