"""A head under test, and the features and targets that it is tried on."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Class, Head, Losses, Predictions, Targets
from densevit.testing.subjects import Factory, Subject, weighted_sum
from densevit.testing.targets import KNOWN, random_targets

Size = tuple[int, int]
SIZE: Size = (96, 128)  # a batch's grid
PICTURES: tuple[Size, ...] = ((96, 128), (64, 96), (80, 50))  # the pictures in it, without padding


@dataclass(frozen=True)
class Levels:
    """Channels and strides, one a feature."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class HeadBatch:
    """What a head gets. features: (B, C_i, h_i, w_i). padding_mask: (B, H, W) bool, True = padding."""

    features: list[Tensor]
    padding_mask: Tensor
    targets: list[Targets]

    def copies(self) -> list[Tensor]:
        """The features, for a head that may spoil them."""
        return [feature.clone() for feature in self.features]

    def asked(self) -> list[Targets]:
        """The targets without labels, as prediction has them."""
        return [{key: target[key] for key in ("size", "original_size")} for target in self.targets]


class HeadSubject(Subject):
    """A head. levels: the features it is mostly tried on. reach: see `check_head`."""

    group = "heads"

    def __init__(self, factory: Factory, channels: Sequence[int], strides: Sequence[int], reach: int) -> None:
        super().__init__(factory)
        self.levels, self.reach = Levels(tuple(channels), tuple(strides)), reach
        made = factory.func if isinstance(factory, functools.partial) else factory
        self.task: str = getattr(made, "task", "")  # else known once one was built, as needs is
        self.needs: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """Needed target keys that the kit cannot make up."""
        return tuple(key for key in self.needs if key not in KNOWN)

    def build(self, seed: int = 0, levels: Levels | None = None, classes: int = 4) -> Head:
        """A fresh head. classes: how many; for depth there are none."""
        own = levels or self.levels
        torch.manual_seed(seed)
        head: Head = self.factory(own.channels, own.strides, self.classes(classes))
        self.plugin = type(head)
        self.task, self.needs = getattr(head, "task", ""), tuple(getattr(head, "needs", ()))
        return head

    def build_with(self, **options: Any) -> Head:
        own = (self.levels.channels, self.levels.strides, self.classes(4))
        return self.plugin(*own, **{**self.options, **options})  # type: ignore[return-value]

    def classes(self, count: int) -> tuple[Class, ...]:
        """Classes as a data set has them: file ids that are no indices, things and a surface; none for depth."""
        named = (Class(f"class {i}", 2 * i + 5, (i, i, i), thing=i != 1) for i in range(count))
        return () if self.task == "depth" else tuple(named)

    def batch(
        self,
        levels: Levels | None = None,
        size: Size = SIZE,
        pictures: Sequence[Size] = PICTURES,
        classes: int = 4,
        objects: Sequence[int] | None = None,
        labelled: Sequence[bool] | None = None,
        scale: float = 1.0,
        seed: int = 1,
    ) -> HeadBatch:
        """Random features and targets, the same for the same arguments.

        pictures: (h, w) of each, at the top left of the batch's grid. objects: how many each has. labelled: whether it
        has the keys of `needs`. scale: the standard deviation of the features.
        """
        generator = torch.Generator().manual_seed(seed)
        B, (H, W), own = len(pictures), size, levels or self.levels
        features = [
            scale * torch.randn(B, channels, -(-H // stride), -(-W // stride), generator=generator)
            for channels, stride in zip(own.channels, own.strides, strict=True)
        ]
        mask = torch.ones(B, H, W, dtype=torch.bool)
        targets = []
        for i, (h, w) in enumerate(pictures):
            mask[i, :h, :w] = False
            needs = self.needs if labelled is None or labelled[i] else ()
            count = 3 if objects is None else objects[i]
            original = (2 * h + 3, 3 * w - 1)
            targets.append(random_targets(needs, (h, w), classes, generator, count, i, original))
        return HeadBatch(features, mask, targets)

    def train_losses(self, head: Head, batch: HeadBatch) -> Losses:
        """One training pass, down to the losses."""
        outputs = head.train()(batch.copies(), batch.padding_mask, batch.targets)
        return head.loss(outputs, batch.targets)

    def predictions(self, head: Head, batch: HeadBatch) -> list[Predictions]:
        """One pass in evaluation mode, without gradients and labels."""
        with torch.no_grad():
            return head.predict(head.eval()(batch.copies(), batch.padding_mask), batch.asked())

    def run(self, module: Head) -> dict[str, Tensor]:
        return flattened(self.predictions(module, self.batch()))

    def training_loss(self, module: Head, attempt: int = 0) -> Tensor:
        batch = self.batch(seed=attempt + 1)
        if self.unknown:  # no labels to be had: what comes out stands for the loss
            outputs = module.train()(batch.copies(), batch.padding_mask, batch.targets)
            return weighted_sum([x for x in tensors(outputs) if x.requires_grad], seed=attempt)
        return torch.stack([x.float() for x in self.train_losses(module, batch).values()]).sum()


def flattened(predictions: Sequence[Predictions]) -> dict[str, Tensor]:
    """All tensors of all predictions, by names as messages have them."""
    return {
        f"predictions[{i}][{key!r}]": value.float()
        for i, prediction in enumerate(predictions)
        for key, value in prediction.items()
        if isinstance(value, Tensor)
    }


def tensors(value: Any) -> list[Tensor]:
    """Every floating-point tensor in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [x for part in inner for x in tensors(part)]
