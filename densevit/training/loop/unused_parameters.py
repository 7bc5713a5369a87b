"""Freezes parameters that receive no gradient, such as the norm of a feature map that no head uses."""

import torch
from torch import nn

from densevit.interfaces import Batch, LossContext, Method
from densevit.model import DenseModel


def freeze_unused(model: DenseModel, method: Method) -> list[str]:
    """Freezes the parameters that receive no gradient, and returns their names. Distributed training would wait for
    their gradients.

    Detects them by one step on blank images without labels, whose losses depend on every parameter in use. Weights,
    running statistics and the random state stay unchanged.

    method: the training method; its parameters are named `method.*`.
    """
    height, width = model.backbone.input_size or (2 * model.size_divisor, 2 * model.size_divisor)
    blank = _blank(model, height, width)
    if method.views > 1:
        blank["other_views"] = [_blank(model, height, width) for _ in range(method.views - 1)]
    both = nn.ModuleDict({"model": model, "method": method})
    buffers = {name: buffer.clone() for name, buffer in both.named_buffers()}
    with torch.random.fork_rng():
        losses = method.train().training_step(model.train(), blank, LossContext())
        torch.stack(list(losses.values())).sum().backward()
    named = {name.removeprefix("model."): p for name, p in both.named_parameters()}
    unused = [name for name, p in named.items() if p.requires_grad and p.grad is None]
    for name, parameter in named.items():
        parameter.grad = None
        parameter.requires_grad_(parameter.requires_grad and name not in unused)
    for name, buffer in both.named_buffers():
        buffer.copy_(buffers[name])
    return unused


def _blank(model: DenseModel, height: int, width: int) -> Batch:
    """A batch of two blank images without labels."""
    return {
        "images": model.blank_images(2, (height, width)),
        "padding_mask": torch.zeros(2, height, width, dtype=torch.bool),
        "targets": [{"image_id": i, "size": (height, width), "original_size": (height, width)} for i in range(2)],
    }
