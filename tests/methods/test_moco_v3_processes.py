"""MoCo v3: two processes have the loss and the gradients of one with all images."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone, LossContext
from densevit_methods.moco_v3 import MoCoV3

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="gloo"), pytest.mark.integration]


class Cells(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (6,), (4,)
        self.convolution = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.convolution(images).relu()]


def step(context: LossContext, rows: slice) -> tuple[Tensor, list[Tensor]]:
    """The loss and gradients of these rows of four images."""
    torch.manual_seed(0)
    backbone = Cells()
    model: Any = SimpleNamespace(backbone=backbone, normalise=lambda images, mask: images)
    method = MoCoV3(model, hidden=20, width=12)
    first, second = ({"images": torch.randn(4, 3, 16, 16)[rows], "padding_mask": None} for _ in range(2))
    loss = method.training_step(model, {**first, "other_views": [second]}, context)["contrastive"]
    loss.backward()
    trained = [p for p in (*backbone.parameters(), *method.parameters()) if p.requires_grad]
    return loss.detach(), [p.grad for p in trained]


def run_process(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    loss, gradients = step(LossContext.of_processes(), slice(2 * rank, 2 * rank + 2))
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    if rank == 0:
        torch.save((loss, [gradient / 2 for gradient in gradients]), folder / "together.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path, run_processes: Callable[..., None]) -> None:
    run_processes(__file__, 2, tmp_path)
    loss, gradients = torch.load(tmp_path / "together.pt")
    expected, alone = step(LossContext(), slice(0, 4))
    torch.testing.assert_close(loss, expected)
    assert len(gradients) == len(alone) and all(gradient.any() for gradient in alone)
    for found, gradient in zip(gradients, alone, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
