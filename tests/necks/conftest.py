"""Fixtures for neck tests: one training step of a detr head with a neck and any backbone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone, Batch, Class, Neck
from densevit.model import DenseModel
from densevit.set_prediction.transformer import Transformer
from densevit_heads.dab_detr import DabDetr
from densevit_heads.dab_detr.extensions import Extensions


class Plain(Backbone):
    """One map of stride 16, like a plain ViT."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, channels, 16, stride=16)
        self.channels, self.strides = (channels,), (16,)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        return [self.patch_embed(nn.functional.pad(images, (0, -W % 16, 0, -H % 16)))]


@pytest.fixture(scope="session")
def plain() -> type[Backbone]:
    return Plain


def _train_a_step(backbone: Backbone, neck: Neck) -> DenseModel:
    classes = [Class("circle", 1, (0, 0, 0)), Class("square", 2, (0, 0, 0))]
    small = Transformer(32, encoder_layers=1, decoder_layers=2, feedforward=64)
    head = DabDetr(neck.channels, neck.strides, classes, 10, small, extensions=Extensions(neck.strides[0]))
    model = DenseModel(backbone, {"detection": head}, {"detection": neck}).train()
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 70:] = True
    boxes, labels = torch.tensor([[4.0, 8, 40, 50], [30, 20, 60, 60]]), torch.tensor([0, 1])
    targets = [{"boxes": boxes, "labels": labels, "size": size, "original_size": size} for size in ((64, 96), (64, 70))]
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    batch: Batch = {"images": images, "padding_mask": mask, "targets": targets}
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        loss = torch.stack(list(model.loss(model(batch), targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss)
    assert all(loss.isfinite() for loss in losses)
    assert losses[1] != losses[0]
    return model


@pytest.fixture(scope="session")
def train_a_step() -> Callable[[Backbone, Neck], DenseModel]:
    """Trains a head that fuses all levels of the neck for two steps; the gradients remain."""
    return _train_a_step
