"""A backbone, a head, a data set and an evaluator as somebody writes them in a package, without entry points."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import densevit


class Net(densevit.Backbone):
    def __init__(self, width: int = 8, act: Any = None) -> None:
        super().__init__()
        self.channels, self.strides = (width, 2 * width), (8, 16)
        self.stem, self.stage = nn.Conv2d(3, width, 8, stride=8), nn.Conv2d(width, 2 * width, 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.stem(images).relu()
        return [fine, self.stage(fine).relu()]


class Labels(densevit.DenseHead):
    task, required_targets = "segmentation", ("semantic",)

    def __init__(self, channels: Any, strides: Any, classes: Any, depth: int = 1) -> None:
        super().__init__(channels, strides, classes)
        layers = [nn.Conv2d(channels[0], channels[0], 1) for _ in range(depth)]
        self.layers, self.stride = nn.Sequential(*layers, nn.Conv2d(channels[0], len(self.classes), 1)), strides[0]

    def forward(self, features: Any, padding_mask: Any, targets: Any = None) -> dict[str, Tensor]:
        return {"logits": self.layers(features[0])}

    def maps(self, outputs: Any, size: Any) -> Tensor:
        return functional.interpolate(outputs["logits"].float(), scale_factor=self.stride)[..., : size[0], : size[1]]

    def loss(self, outputs: Any, targets: Any, context: Any) -> dict[str, Tensor]:
        maps = [self.maps({"logits": x[None]}, t["size"]) for x, t in zip(outputs["logits"], targets, strict=True)]
        terms = [functional.cross_entropy(x, t["semantic"][None].long()) for x, t in zip(maps, targets, strict=True)]
        return {"cross_entropy": torch.stack(terms).mean()}

    def read_maps(self, maps: Tensor) -> dict[str, Tensor]:
        return {"semantic": maps.argmax(1).to(torch.uint8)}

    def predict(self, outputs: Any, targets: Any) -> list[dict[str, Tensor]]:
        pairs = zip(outputs["logits"], targets, strict=True)
        return [
            {"semantic": self.read_maps(self.maps({"logits": x[None]}, t["size"]))["semantic"][0]} for x, t in pairs
        ]


class Halves(densevit.Dataset):
    """Images with a dark left and a bright right part."""

    provides = ("semantic",)

    def __init__(self, count: int, seed: int = 0, draw: Callable[..., int] = random.Random.randrange) -> None:
        self.count, self.seed, self.draw = count, seed, draw
        self.classes = {"segmentation": densevit.interfaces.as_classes(["left", "right"])}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        edge = self.draw(random.Random(1000 * self.seed + index), 16, 48)
        semantic = (torch.arange(64) >= edge).to(torch.uint8).expand(64, 64).contiguous()
        return {"image": 100 * semantic.expand(3, 64, 64) + 50, "targets": {"semantic": semantic, "image_id": index}}


class Accuracy(densevit.Evaluator):
    main = "accuracy"

    def __init__(self, classes: Any, per_cent: bool = False) -> None:
        super().__init__(classes)
        self.per_cent = per_cent

    def record(self, prediction: Any, truth: Any) -> float:
        return float((prediction["semantic"] == truth["semantic"]).float().mean())

    def compute(self, records: Any) -> dict[str, float]:
        return {"accuracy": sum(records) / max(1, len(records)) * (100 if self.per_cent else 1)}


class Unchanged(densevit.Transforms):
    augments = False

    def __init__(self, image_size: Any, side: int = 64) -> None:
        self.side = side

    def evaluation_size(self, height: int, width: int) -> tuple[int, int]:
        return self.side, self.side


class Doubled(densevit.Method):
    needs_heads = needs_labels = True

    def __init__(self, model: Any, factor: float = 2.0) -> None:
        super().__init__(model)
        self.factor = factor

    def training_step(self, model: Any, batch: Any, context: Any) -> dict[str, Tensor]:
        losses = model.losses_of(model(batch), batch["targets"], context)
        return {name: self.factor * value for name, value in losses.items()}


class Momentum(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.5) -> None:
        super().__init__(params, lr, momentum)
