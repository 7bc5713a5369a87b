"""Semantic injection (RT-DETRv4, Liao et al. 2025): the deepest map of a detector's encoder learns the features of a
frozen foundation model, beside the losses of the heads."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit.interfaces import Batch, LossContext, Losses
from densevit_methods.feature_distillation import FeatureDistillation
from densevit_methods.shares import check_shares
from densevit_methods.teachers import BackboneSource

_NO_SHARE = 1e-8  # of gradients: the term has no effect
_LARGEST_CHANGE = 10.0  # of the weight, in an update


class SemanticInjection(FeatureDistillation):
    """Deep Semantic Injector and Gradient-guided Adaptive Modulation (RT-DETRv4, Liao et al. 2025).

    A linear projection of the encoder's coarsest map after its attention (AIFI, before the fusion of scales) learns the
    last map of a frozen teacher: the loss is `weight` times the mean of 1 - cos over the cells. The teacher sees the
    images averaged over 2 x 2 pixels, so that a ViT with patches of 16 has the cells of an encoder of stride 32. The
    model needs one head with such an encoder, `dfine` or `rtdetr`, and is saved without the projection.

    teacher: the source or section of a backbone (`FeatureDistillation`); DINOv3's ViT-B/16 in the paper.
    weight: the first weight of the term.
    gradient_share: the range of AIFI's share of the L1 norm of all gradients, as a mean over the steps since the last
        update. Outside it, the weight is multiplied, by 0.1 to 10, by q (1 - p) / (p (1 - q)), with the share p and
        the farther end q of the range, as in the authors' code. None: the weight is constant.
    updates: number of equal parts of the training, each but the last followed by an update: the epochs, in the paper.
    final_weight: the weight after the part that contains `final_start`, a fraction of the training, and whenever the
        share is 0.
    """

    needs_heads = True
    pooling = 2
    weight: Tensor
    share_sum: Tensor
    steps: Tensor
    done: Tensor

    def __init__(
        self,
        model: Any,
        teacher: BackboneSource,
        weight: float = 5.0,
        gradient_share: tuple[float, float] | None = None,
        updates: int = 100,
        final_weight: float = 20.0,
        final_start: float = 1.0,
    ) -> None:
        super().__init__(model, teacher)
        check_shares(final_start=final_start)
        if gradient_share is not None and not 0 < gradient_share[0] <= gradient_share[1] < 1:
            raise ConfigError(f"method.gradient_share is {gradient_share}; two shares in (0, 1) are expected.")
        heads = [
            name for name, head in model.heads.items() if hasattr(encoder := getattr(head, "encoder", None), "stride")
        ]
        if len(heads) != 1:
            raise ConfigError(
                f"method semantic_injection: {len(heads)} of the heads {[*model.heads]} have an encoder with attention "
                "on the coarsest map; one is expected. Fix: one head dfine or rtdetr."
            )
        [self.head], encoder = heads, model.heads[heads[0]].encoder
        self.projections = nn.ModuleList([nn.Conv2d(encoder.width, self.teacher.backbone.channels[-1], 1)])
        self.strides = [encoder.stride]
        self.gradient_share, self.updates = gradient_share, updates
        self.final_weight, self.final_start = final_weight, final_start
        self._update = 0
        for name, value in (("weight", weight), ("share_sum", 0.0), ("steps", 0.0), ("done", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        outputs = model(batch)
        errors = self.errors([outputs[self.head]["attended"]], batch)
        mean = errors.sum() / context.mean(errors.new_tensor(float(len(errors))))
        return {"semantic_injection": self.weight * mean} | model.losses_of(outputs, batch["targets"], context)

    def distances(self, predicted: Tensor, target: Tensor) -> Tensor:
        """1 - cos (B, h, w) of features (B, C, h, w)."""
        return 1 - F.cosine_similarity(predicted, target)

    def after_step(self, model: Any) -> None:
        """Adds AIFI's share of the gradients, which the step has left in the parameters."""
        if self.gradient_share is not None:
            attention = _absolute_sum(model.heads[self.head].encoder.attention.parameters())
            total = _absolute_sum([*model.parameters(), *self.projections.parameters()])
            self.share_sum += (attention / total).nan_to_num(0.0, 0.0, 0.0)
            self.steps += 1

    def set_progress(self, progress: float) -> None:
        update = int(progress * self.updates + 1e-6)
        if self.gradient_share is None or update == self._update:
            return
        self._update = update
        if update > self.done:
            share = float(self.share_sum / self.steps.clamp(min=1))
            final = share < _NO_SHARE or update > self.final_start * self.updates
            self.weight.fill_(self.final_weight if final else float(self.weight) * self.change(share))
            self.done.fill_(update)
            self.share_sum.zero_()
            self.steps.zero_()

    def change(self, share: float) -> float:
        """The factor on the weight after steps with this mean share of AIFI's gradients."""
        assert self.gradient_share is not None
        low, high = self.gradient_share
        if low <= share <= high:
            return 1.0
        aim = high if share < low else low
        return min(max(aim * (1 - share) / (share * (1 - aim)), 1 / _LARGEST_CHANGE), _LARGEST_CHANGE)


def _absolute_sum(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L1 norm of all gradients."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.stack(torch._foreach_norm(gradients, 1)).sum()
