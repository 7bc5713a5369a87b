"""Freezes parameters that receive no gradient, such as the norm of a feature map that no head uses."""

import torch
from torch import nn

from densevit.interfaces import Batch, LossContext, Method
from densevit.layers.unchanged import unchanged
from densevit.model import DenseModel


def freeze_unused(model: DenseModel, method: Method) -> list[str]:
    """Freezes the parameters that receive no gradient, and returns their names. Distributed training would wait for
    their gradients.

    Detects them by one step on blank images without labels, whose losses depend on every parameter in use. The model,
    the method and the random state stay unchanged otherwise.

    method: the training method; its parameters are named `method.*`.
    """
    height, width = model.backbone.input_size or (2 * model.size_divisor, 2 * model.size_divisor)
    blank = _blank(model, height, width)
    if method.views > 1:
        blank["other_views"] = [_blank(model, height, width) for _ in range(method.views - 1)]
    both = nn.ModuleDict({"model": model, "method": method})
    with unchanged(both), torch.random.fork_rng():
        losses = method.train().training_step(model.train(), blank, LossContext())
        torch.stack(list(losses.values())).sum().backward()
        unused = {name: p for name, p in both.named_parameters() if p.requires_grad and p.grad is None}
    for parameter in unused.values():
        parameter.requires_grad_(False)
    return [name.removeprefix("model.") for name in unused]


def _blank(model: DenseModel, height: int, width: int) -> Batch:
    """A batch of two blank images without labels."""
    return {
        "images": model.blank_images(2, (height, width)),
        "padding_mask": torch.zeros(2, height, width, dtype=torch.bool),
        "targets": [{"image_id": i, "size": (height, width), "original_size": (height, width)} for i in range(2)],
    }
