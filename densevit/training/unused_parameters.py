"""Freezes parameters that get no gradient, such as the norm of a feature map that no head uses."""

import torch

from densevit.interfaces import Batch
from densevit.model import DenseModel


def freeze_unused(model: DenseModel) -> list[str]:
    """Freezes the parameters that get no gradient, and returns their names. Distributed training would wait for them.

    They are found by one step on blank images without labels, whose losses are 0 but depend on every parameter in use.
    Weights, running statistics and the random state are left unchanged.
    """
    height, width = model.backbone.input_size or (2 * model.multiple, 2 * model.multiple)
    blank: Batch = {
        "images": torch.zeros(2, 3, height, width, dtype=torch.uint8),
        "padding_mask": torch.zeros(2, height, width, dtype=torch.bool),
        "targets": [{"image_id": i, "size": (height, width), "original_size": (height, width)} for i in range(2)],
    }
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng():
        losses = model.loss(model.train()(blank), blank["targets"])
        torch.stack(list(losses.values())).sum().backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.requires_grad and name not in unused)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return unused
