"""MoCo v3: contrastive learning with a momentum encoder (Chen et al. 2021, "An Empirical Study of Training
Self-Supervised Vision Transformers")."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext, Losses
from densevit.layers.precision import at_least_fp32
from densevit_methods.crops import check_scale, random_views
from densevit_methods.moving_average import MovingAverage, cosine_momentum
from densevit_methods.unlabelled import Unlabelled


class MoCoV3(Unlabelled):
    """Finds the other view of an image among the views of all images of the batch, in all processes (algorithm 1).

    The mean of the backbone's coarsest feature describes an image, for any backbone; the paper uses a ViT's class
    token. The features of all processes are gathered before the MLPs, so batch norm and negatives cover the entire
    batch. The momentum encoder runs in evaluation mode; the run saves the trained model. Crops replace the transform of
    `data.transforms`.

    The paper does not train the patch embedding of a ViT, which makes the training stable (section 4.1):
    `backbone: {freeze: [stem.*], weights: random}`.

    image_size: side of the crops in pixels. scale: range of a crop's share of the image's area (ViT: from 0.08, ResNet:
        from 0.2).
    temperature: 0.2 for ViT, 1 for ResNet. momentum: rises to 1 by a cosine. hidden, width: the hidden and the output
    channels of the MLPs.
    """

    views = 2

    def __init__(
        self,
        model: Any,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        temperature: float = 0.2,
        momentum: float = 0.99,
        hidden: int = 4096,
        width: int = 256,
    ) -> None:
        super().__init__(model)
        check_scale("scale", scale)
        if min(image_size, hidden, width) < 1 or temperature <= 0 or not 0 <= momentum <= 1:
            raise ValueError(
                f"image_size is {image_size}, hidden {hidden}, width {width}, temperature {temperature}, momentum "
                f"{momentum}; sizes of at least 1, a temperature above 0 and a momentum from 0 to 1 are expected."
            )
        self.image_size, self.scale, self.temperature, self.momentum = image_size, scale, temperature, momentum
        channels = model.backbone.channels[-1]
        self.projector = _mlp([channels, hidden, hidden, width])
        self.predictor = _mlp([width, hidden, width])
        self.momentum_encoder = copy.deepcopy(model.backbone).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.encoder_average, self.projector_average = MovingAverage(), MovingAverage()
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def train(self, mode: bool = True) -> "MoCoV3":
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def transform(self, configured: Any) -> Any:
        """Two crops with the colours of BYOL's two views (appendix A)."""
        return random_views([(self.image_size, self.scale, 1.0, 0.0), (self.image_size, self.scale, 0.1, 0.2)])

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        """Returns `contrastive`, the loss of both views."""
        queries, keys = [], []
        for view in (batch, *batch["other_views"]):
            pixels = model.normalise(view["images"], view["padding_mask"])
            feature = model.backbone(pixels)[-1].mean((2, 3))
            queries.append(self.predictor(self.projector(gather(feature, context))))
            with torch.no_grad():
                feature = self.momentum_encoder(pixels)[-1].mean((2, 3))
                keys.append(self.momentum_projector(gather(feature, context)))
        return {"contrastive": self.contrastive(queries[0], keys[1]) + self.contrastive(queries[1], keys[0])}

    def contrastive(self, queries: Tensor, keys: Tensor) -> Tensor:
        """InfoNCE, scaled by twice the temperature (algorithm 1, `ctr`). queries, keys: (N, C); row i is image i."""
        logits = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T / self.temperature
        labels = torch.arange(len(logits), device=logits.device)
        return 2 * self.temperature * F.cross_entropy(logits.float(), labels)

    def after_step(self, model: Any) -> None:
        weight = 1 - cosine_momentum(self.momentum, self.progress)
        self.encoder_average.update(self.momentum_encoder, model.backbone, weight)
        self.projector_average.update(self.momentum_projector, self.projector, weight)


def _mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers without bias, each with batch norm; the last one without scale and bias (appendix A)."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        layers += [nn.Linear(inputs, outputs, bias=False), _BatchNorm(outputs, affine=not last)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm with the statistics of the batch, always: the MLPs are used in training only."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__(channels, affine=affine, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            raise ConfigError(
                "The method moco_v3 compares the images of a batch, which has only one. Fix: set data.batch_size to 2 "
                "or more."
            )
        weight, bias = (None, None) if self.weight is None else (at_least_fp32(self.weight), at_least_fp32(self.bias))
        normalised = F.batch_norm(at_least_fp32(x), None, None, weight, bias, True, 0.0, self.eps)
        return normalised if torch.is_autocast_enabled(x.device.type) else normalised.to(x.dtype)  # for bf16 weights


def gather(x: Tensor, context: LossContext) -> Tensor:
    """The rows (N, C) of all processes, in their order: (processes * N, C). Gradients are summed over processes."""
    gathered: Tensor = x if context.processes == 1 else _Gather.apply(x, context)
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather by a sum, whose backward pass is a sum too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: LossContext) -> Tensor:
        rank = distributed.get_rank(context.group)
        ctx.context, ctx.rows = context, slice(rank * len(x), (rank + 1) * len(x))
        rows = x.new_zeros(context.processes * len(x), *x.shape[1:])
        rows[ctx.rows] = x
        return context.sum(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.context.sum(gradients[0])[ctx.rows], None
