"""The model: normalisation, one backbone, and a head with its neck for each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from densevit import registry
from densevit.config import Config
from densevit.data.batching import collate
from densevit.data.pictures import as_sample
from densevit.data.transforms import build_evaluation
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Backbone, Batch, Class, Head, Losses, Neck, Outputs, Predictions, Sample, Targets


class DenseModel(nn.Module):
    """A backbone that feeds one or more named heads.

    classes: the classes that each head predicts. config: the one it was built from, where it was built from one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        necks: Mapping[str, Neck] | None = None,
        weights: Mapping[str, float] | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.necks = nn.ModuleDict(necks or {})
        self.classes: dict[str, tuple[Class, ...]] = {name: head.classes for name, head in heads.items()}
        self.weights = {name: (weights or {}).get(name, 1.0) for name in heads}
        self.config = config
        self.register_buffer("mean", 255 * torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(backbone.std)[:, None, None], persistent=False)

    @property
    def multiple(self) -> int:
        """What heights and widths are padded to: the coarsest stride; 1 where the backbone brings all to one size."""
        return 1 if self.backbone.input_size else max(self.backbone.strides)

    def forward(self, batch: Batch) -> dict[str, Outputs]:
        """Each head's outputs. Training targets reach the heads only in training mode."""
        features = self.backbone(self.normalise(batch["images"], batch["padding_mask"]))
        targets = batch["targets"] if self.training else None
        outputs = {}
        for name, head in self.heads.items():
            own = self.necks[name](features) if name in self.necks else features
            outputs[name] = head(own, batch["padding_mask"], targets)
        return outputs

    def normalise(self, images: Tensor, padding_mask: Tensor) -> Tensor:
        """uint8 pixels (B, 3, H, W) to the backbone's mean and deviation; padding (B, H, W) becomes exactly 0."""
        pixels = (images.to(self.mean.dtype) - self.mean) / self.std
        return pixels.masked_fill_(padding_mask[:, None], 0.0)

    def loss(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> Losses:
        """Every head's losses, times its weight, named HEAD/TERM. Their sum is minimised."""
        return {
            f"{name}/{term}": self.weights[name] * value
            for name, head in self.heads.items()
            for term, value in head.loss(outputs[name], targets).items()  # type: ignore[operator]  # a Head
        }

    def predictions(self, outputs: Mapping[str, Outputs], targets: list[Targets]) -> dict[str, list[Predictions]]:
        """Every head's predictions, one an image, in original pixels."""
        return {
            name: head.predict(outputs[name], targets)  # type: ignore[operator]  # a Head
            for name, head in self.heads.items()
        }

    def predict(self, pictures: Sequence[Any], batch_size: int = 8) -> list[Any]:
        """What the model sees in pictures: paths, PIL pictures or arrays ((H, W, 3) or (H, W), uint8, RGB).

        Returns, a picture, its predictions in its own pixels; a dict of them by head where the model has several. A
        result does not depend on the other pictures. The model is left in the mode it was in.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
            raise DataError("predict takes a list of pictures, not one: write predict([picture]).")
        resize = build_evaluation(self.config.data) if self.config is not None else None
        was_training = self.training
        self.eval()
        results: list[Any] = [None] * len(pictures)
        waiting: dict[tuple[int, int], list[tuple[int, Sample]]] = {}  # pictures of one padded size run together
        try:
            for index, picture in enumerate(pictures):
                sample = as_sample(picture, index)
                sample = resize(sample) if resize is not None else sample
                height, width = sample["image"].shape[1:]
                size = (-(-height // self.multiple), -(-width // self.multiple))
                group = waiting.setdefault(size, [])
                group.append((index, sample))
                if len(group) == batch_size:
                    self._predict(waiting.pop(size), results)
            for group in waiting.values():
                self._predict(group, results)
        finally:
            self.train(was_training)
        return results

    @torch.inference_mode()
    def _predict(self, group: list[tuple[int, Sample]], results: list[Any]) -> None:
        batch = collate([sample for _, sample in group], self.multiple)
        for key in ("images", "padding_mask"):
            batch[key] = batch[key].to(self.mean.device)
        by_head = self.predictions(self(batch), batch["targets"])
        for place, (index, _) in enumerate(group):
            own = {name: {k: _on_cpu(v) for k, v in found[place].items()} for name, found in by_head.items()}
            results[index] = own if len(own) > 1 else next(iter(own.values()))

    def train(self, mode: bool = True) -> "DenseModel":
        """As of any module, but what is frozen stays in evaluation mode: its norms and dropout stand still."""
        super().train(mode)
        for part in (self.backbone, *self.heads.values(), *self.necks.values()):
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def create_backbone(name: str, **options: Any) -> Backbone:
    """A backbone by its plugin's name, with its constructor's options checked. Random weights."""
    backbone = registry.create("backbones", name, options=options, where="backbone")
    for attribute in ("channels", "strides"):
        if not getattr(backbone, attribute, None):
            raise ConfigError(f"backbone {name!r} has no {attribute!r}: set them in its constructor, one a feature.")
    if len(backbone.channels) != len(backbone.strides):
        raise ConfigError(
            f"backbone {name!r} states {len(backbone.channels)} channels and {len(backbone.strides)} strides; "
            "there is one of each a feature."
        )
    return backbone


def create_head(
    name: str, channels: Sequence[int], strides: Sequence[int], classes: Sequence[Class], **options: Any
) -> Head:
    """A head by its plugin's name, for features of these channels and strides and for these classes."""
    return registry.create(
        "heads", name, tuple(channels), tuple(strides), tuple(classes), options=options, where=f"head {name!r}"
    )


def build_model(config: Config, classes: Mapping[str, Sequence[Class]]) -> DenseModel:
    """The model that a config describes, with random weights.

    classes: by task, as a data set has them. `weights.model_file.load_initial` loads the weights that the config names.
    """
    backbone = create_backbone(config.backbone.name, **config.backbone.options)
    heads: dict[str, Head] = {}
    necks: dict[str, Neck] = {}
    for name, section in config.heads.items():
        channels, strides = backbone.channels, backbone.strides
        if section.neck is not None:
            neck = registry.create(
                "necks",
                section.neck.name,
                channels,
                strides,
                options=section.neck.options,
                where=f"heads.{name}.neck",
            )
            necks[name] = neck
            channels, strides = neck.channels, neck.strides
        task = registry.load("heads", section.name).task
        heads[name] = registry.create(
            "heads",
            section.name,
            channels,
            strides,
            tuple(classes.get(task, ())),
            options=section.options,
            where=f"heads.{name}",
        )
    model = DenseModel(backbone, heads, necks, {name: s.weight for name, s in config.heads.items()}, config)
    if config.backbone.freeze:
        backbone.requires_grad_(False)
    for name, section in config.heads.items():
        if section.freeze:
            heads[name].requires_grad_(False)
            if name in necks:
                necks[name].requires_grad_(False)
    return model.train()
