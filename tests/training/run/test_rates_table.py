"""The learning rates that a training prints at its start in a line, and writes to its log as a table."""

import torch
from rich.console import Console
from torch import nn

from densevit.config import OptimSection
from densevit.interfaces import Backbone, Head
from densevit.model import DenseModel
from densevit.training.loop.optim import rates_of
from densevit.training.run.rates_table import rates_line, rates_table


class Blocks(Backbone):
    """A stem, four blocks and a norm, each with its own depth."""

    channels, strides = (4,), (1,)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.norm = nn.LayerNorm(4)

    def parameter_depths(self):
        return [list(part.parameters()) for part in (self.stem, *self.blocks, self.norm)]


class Attention(Head):
    """Two layers with two parts each, and a token."""

    task, needs = "detection", ()

    def __init__(self) -> None:
        super().__init__((4,), (1,), ())
        self.token = nn.Parameter(torch.zeros(4))
        self.layers = nn.ModuleList(nn.ModuleDict({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)}) for _ in "ab")


def shown(model: DenseModel, **options) -> list[list[str]]:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rates_table(rates_of(model, OptimSection(**options), lr=1.0)))
    return [line.split() for line in console.export_text().splitlines() if line.strip()]


def test_rows_group_depths_by_rate_and_freezing():
    model = DenseModel(Blocks(), {"boxes": Attention()}, weights={"boxes": "learned"})
    for part in (model.backbone.stem, model.backbone.blocks[0], model.backbone.blocks[3].bias):
        part.requires_grad_(False)
    options = {"backbone_lr": 0.1, "weight_decay": 0.05, "lr_factors": {"*.query.*": 0.5, "backbone.blocks.1.*": 2}}
    rates = "learning rates: backbone 0.1 to 0.2, heads.boxes 0.5 to 1, log_variances.boxes 1; 40 weights frozen"
    assert rates_line(rates_of(model, OptimSection(**options), lr=1.0)) == rates
    rows = shown(model, **options)
    assert rows == [
        ["parameters", "depth", "learning", "rate", "number", "decay", "0.05"],
        ["backbone.stem.*,", "backbone.blocks.0.*", "1-2", "frozen", "36"],
        ["backbone.blocks.1.*", "3", "0.2", "20", "16"],
        ["backbone.blocks.2.*,", "backbone.blocks.3.weight,", "4-6", "0.1", "44", "32"],
        ["backbone.norm.*"],
        ["backbone.blocks.3.bias", "5", "frozen", "4"],
        ["heads.boxes.token,", "heads.boxes.layers.*.value.*", "1", "44", "32"],
        ["heads.boxes.layers.*.query.*", "0.5", "40", "32"],
        ["log_variances.boxes", "1", "1", "0"],
    ]
