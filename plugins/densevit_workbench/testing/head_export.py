"""Checks a head's export, with the functions of the package that exports; without it, nothing is checked."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit import registry
from densevit.interfaces import Backbone, BackboneOutput
from densevit.model import DenseModel
from densevit_workbench.testing.check_results import NotChecked, check, require
from densevit_workbench.testing.head_fixtures import GRID, HeadFixture
from densevit_workbench.testing.token_blocks import last_blocks_of

_SIZES = (GRID, (71, 150))
_RULES = (
    "make shapes and branches depend on sizes only: no loops over images, x.shape[0] instead of len(x), no .item() and "
    "no numpy in forward, maps and exported"
)


class PooledImages(Backbone):
    """A backbone that averages images over cells and projects them randomly."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)
        generator = torch.Generator().manual_seed(0)
        for stride, count in zip(strides, channels, strict=True):
            self.register_buffer(f"mix_{stride}", torch.randn(count, 3, 1, 1, generator=generator))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.conv2d(F.avg_pool2d(images, stride), self.get_buffer(f"mix_{stride}")) for stride in self.strides]

    max_last_blocks = 1000

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> BackboneOutput:
        """Feature maps of `forward`, and last blocks on them."""
        maps = self(images)
        return BackboneOutput(maps, {count: last_blocks_of(maps, count) for count in counts})


@check("outputs for an exported file", _RULES)
def export(fixture: HeadFixture) -> str:
    """torch.export traces the head's `exported`; the file gives equal results for another batch and another size."""
    model = DenseModel(PooledImages(*fixture.levels), {"head": fixture.shared()})
    return str(_installed("check_export")(model, _SIZES, _RULES, require))


@check(
    "predictions from an exported file",
    "in predict_exported(exported, targets), repeat what predict does after the outputs of exported()",
)
def exported_predictions(fixture: HeadFixture) -> str:
    """`predict_exported` turns outputs of `exported` into the predictions of `predict`."""
    batch = fixture.batch().first()
    compare = _installed("check_exported_predictions")
    return str(compare(fixture.shared(), batch.copies(), batch.padding_mask, GRID, require))


def _installed(name: str) -> Any:
    if name not in registry.find("names"):
        raise NotChecked("densevit_export is not installed")
    return registry.public_name(name)
