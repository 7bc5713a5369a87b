"""Training methods of the tests, and a backbone of one convolution."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from densevit.config import Config, from_mapping
from densevit.interfaces import Backbone, Batch, Losses, Method
from densevit.losses.context import LossContext


class Pixels(Backbone):
    """A feature of stride 1 and its norm; `unused` gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (4,), (1,)
        self.convolution, self.norm, self.unused = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.norm(self.convolution(images)).relu()]


class Denoising(Method):
    """Removes noise, and predicts the features of a moving average of the backbone on the other view."""

    views, kernel = 2, 1

    def __init__(self, model: Any, noise: float = 0.1) -> None:
        super().__init__(model)
        self.noise, self.unused = noise, nn.Linear(1, 1)
        self.decoder = nn.Conv2d(4, 3, self.kernel, padding=self.kernel // 2)
        self.teacher = copy.deepcopy(model.backbone).requires_grad_(False)
        self.register_buffer("updates", torch.tensor(0))

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        [other] = batch["other_views"]
        first, second = (model.normalise(view["images"], view["padding_mask"]) for view in (batch, other))
        [features] = model.backbone(first + self.noise * torch.randn_like(first))
        [teacher] = self.teacher(second)
        return {
            "denoising": (self.decoder(features) - first).square().mean(),
            "teacher": (features.mean((2, 3)) - teacher.mean((2, 3))).square().mean(),
        }

    def after_step(self, model: Any) -> None:
        self.updates += 1
        for own, other in zip(self.teacher.parameters(), model.backbone.parameters(), strict=True):
            own.lerp_(other, 0.5)

    def validation_losses(self, model: Any, batch: Batch) -> Tensor:
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        return (self.decoder(model.backbone(pixels)[0]) - pixels).square().mean((1, 2, 3))


class Silent(Method):
    """Has no validation loss."""

    def training_step(self, model: Any, batch: Batch, context: LossContext) -> Losses:
        return {"mean": model.backbone(model.normalise(batch["images"], batch["padding_mask"]))[0].square().mean()}


class Teacher(Silent):
    """Validates and saves a moving average of the model."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def eval_model(self, model: Any) -> Any:
        return self.teacher

    def after_step(self, model: Any) -> None:
        for own, other in zip(self.teacher.parameters(), model.parameters(), strict=True):
            own.lerp_(other, 0.25)


def config(method: type[Method] = Denoising, trainer: dict[str, Any] | None = None, **sections: Any) -> Config:
    values: dict[str, Any] = {
        "backbone": {"name": f"{__name__}:Pixels"},
        "heads": {},
        "method": {"name": f"{method.__module__}:{method.__name__}"},
        "data": {
            "name": "scenes", "image_size": 32, "batch_size": 2, "num_workers": 0, "train_length": 6, "val_length": 3,
        },
        "optim": {"lr": 1e-2},
        "trainer": {"max_steps": 4, "precision": "32", "accelerator": "cpu", "log_every": 1} | (trainer or {}),
    }  # fmt: skip
    return from_mapping(values | sections)
