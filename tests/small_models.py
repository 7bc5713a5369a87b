"""Small models: each layer and each resizing takes time to trace in an export, each pixel to compare."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import densevit
from densevit.channels import Channels
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.detr import DetrTransforms
from densevit.interfaces import Class, Head, Losses, Predictions, Targets
from densevit.model import DenseModel

NAMES = ["cat", "dog & bone"]
CELLS = {"name": "one_stage", "width": 16, "fusion_blocks": 0}
NAIVE = {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": (), "norm": "batch"}


class Pixels(densevit.Backbone):
    """The normalised pixels. parts: further modules and parameters, by name."""

    channels, strides = (3,), (1,)

    def __init__(self, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images * self.scale]


class StandIn(Head):
    """A head in place of a real one: `predicted(target)` gives the predictions of an image, `losses` the loss terms.

    parts: its modules and parameters, by name. Another task is a subclass with its `task` and `required_targets`.
    """

    task, required_targets = "detection", ("boxes", "labels")

    def __init__(
        self,
        classes: Sequence[Class] = (),
        predicted: Callable[[Targets], Predictions] = lambda target: {},
        losses: Callable[..., Losses] = lambda outputs, targets, context: {"loss": outputs["pixels"].mean()},
        **parts: nn.Module | nn.Parameter,
    ) -> None:
        super().__init__((3,), (1,), classes)
        self.predicted, self.loss = predicted, losses  # type: ignore[method-assign]
        self.scale = nn.Parameter(torch.ones(()))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, features, padding_mask, targets=None):
        return {"pixels": features[0] * self.scale}

    def predict(self, outputs, targets):
        return [self.predicted(target) for target in targets]


class FourMaps(densevit.Backbone):
    """Four convolutions, the first with a batch norm, whose outputs are the features. in_channels: those of images."""

    channels, strides = (8, 8, 16, 16), (4, 8, 16, 32)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        widths = (in_channels, *self.channels)
        kernels = (4, 2, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], kernels[i], kernels[i]) for i in range(4))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.norm(self.layers[0](images)).relu()]
        for layer in self.layers[1:]:
            features.append(layer(features[-1]))
        return features


class Cells(Head):
    """A third party's head of boxes without `exported`."""

    task, required_targets = "detection", ("boxes", "labels")

    def forward(self, features, padding_mask, targets=None):
        return {"logits": features[0]}

    def predict(self, outputs, targets):
        return [{} for _ in targets]


FOUR_MAPS = {"name": f"{__name__}:FourMaps"}
CHANNELS = {
    "uint16": Channels(("red", "green", "blue", "nir"), "uint16", ((0, 10000), (100, 9000), (0, 65535), (500, 4000))),
    "float32": Channels(("elevation", "slope"), "float32", ((-50.0, 450.0), (0.0, 1.5)), nodata=-9999.0),
}
"""Channels of images that are not RGB of 8 bits."""


def small_predictor(head: dict[str, Any], classes: Sequence[str] | None = ("a", "b"), side: int = 96) -> DenseModel:
    """A head on `FourMaps`, for images whose longer side is resized to `side`, on which `export` compares."""
    torch.manual_seed(0)
    predictor = densevit.create_model(FOUR_MAPS, {"x": head}, None if classes is None else [*classes])
    return predictor.with_resize(DefaultTransforms(side))


def channel_predictor(name: str, heads: Mapping[str, Any]) -> DenseModel:
    """The predictor of images of `CHANNELS[name]`, of any size."""
    torch.manual_seed(0)
    channels, count = CHANNELS[name], len(CHANNELS[name].names)
    normalisation = {"mean": (0.4, 0.5, 0.6, 0.3)[:count], "std": (0.2, 0.3, 0.25, 0.1)[:count]}
    section: Any = {**FOUR_MAPS, "channels": channels, **normalisation}
    return without_zeros(densevit.create_model(section, heads, {head: ["a", "b"] for head in heads}))


def program_predictor() -> DenseModel:
    """The predictor of the fixture `program`. Detects `NAMES`."""
    return small_predictor(CELLS, NAMES).with_resize(DetrTransforms((64, 110)))


def without_zeros(predictor: DenseModel) -> DenseModel:
    """The predictor with random parameters in place of zeros, such as those of the last layer of boxes."""
    for parameter in predictor.parameters():
        if not parameter.any():
            nn.init.normal_(parameter.data, std=0.02)
    return predictor


def drawn_outputs(predictor: DenseModel) -> dict[str, Any]:
    """Outputs of a head on an image of 75x107 pixels, with random values that give objects and segments."""
    generator, size_divisor = torch.Generator().manual_seed(1), predictor.size_divisor
    height, width = (size_divisor * math.ceil(side / size_divisor) for side in (75, 107))
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, :75, :107] = False
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    with torch.no_grad():
        outputs = dict(predictor.eval()({"images": images, "padding_mask": mask, "targets": []})["x"])
    for key in ("logits", "masks", "depth", "boxes"):
        if key in outputs:
            uniform = key in ("depth", "boxes")
            outputs[key] = torch.rand(outputs[key].shape, generator=generator) if uniform else outputs[key]
            if key == "logits":
                outputs[key] = 9 * torch.randn(outputs[key].shape, generator=generator)
            if key == "masks":  # smooth, so that segments are large
                coarse = 9 * torch.randn(1, outputs[key].shape[1], 2, 2, generator=generator) - 5
                outputs[key] = nn.functional.interpolate(coarse, outputs[key].shape[-2:], mode="bilinear")
    return outputs
