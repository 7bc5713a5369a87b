"""Run folders of small models with random weights on one frozen backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densevit import config as configs
from densevit.data.data_builder import build_data
from densevit.model import DenseModel
from densevit.weights import model_file
from tests.built_models import build_model
from tests.small_models import CELLS, NAIVE, FourMaps

BOXES: dict[str, Any] = {"detection": {**CELLS, "neck": {"name": "fpn", "width": 16}}}
SURFACES: dict[str, Any] = {"surfaces": NAIVE}
DEPTH: dict[str, Any] = {"depth": {"name": "dpt", "width": 16, "output": "sigmoid", "max_depth": 60}}


class Scaled(FourMaps):
    """`FourMaps` with an option, times which features are."""

    def __init__(self, scale: float = 1.0, in_channels: int = 3) -> None:
        super().__init__(in_channels)
        self.scale = scale

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.scale * x for x in super().forward(images)]


def randomise(module: nn.Module, seed: int) -> None:
    """Gives norms and biases values that are not their initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * (0.5 if value.ndim < 2 else 0.2) + 0.05)


def write_run(folder: Path, heads: Mapping[str, Any], seed: int, backbone_seed: int = 0, **changes: Any) -> DenseModel:
    """Writes the model and the config of a run. changes: keys of sections, as in `data={"image_size": 64}`."""
    backbone = {"name": f"{__name__}:Scaled", "freeze": True, **changes.pop("backbone", {})}
    data = {"name": "scenes", "image_size": 96, "val_length": 2, "train_length": 2, **changes.pop("data", {})}
    values = {"backbone": backbone, "heads": heads, "data": data, "trainer": {"max_epochs": 1}, **changes}
    config = configs.from_mapping(values)
    model = build_model(config, build_data(config).train)
    randomise(model, seed)
    randomise(model.backbone, backbone_seed)
    model_file.save(model, folder_of(folder) / "model.safetensors")
    (folder / "config.yaml").write_text(configs.dump(config))
    return model.eval()


def folder_of(folder: Path) -> Path:
    folder.mkdir()
    return folder
