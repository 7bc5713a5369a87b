"""Fixture for heads: a head under test, and random features and targets."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves  # noqa: PLC2701  # torch has no public name for it

from densevit.interfaces import Class, Head, LossContext, Losses, Predictions, Targets
from densevit.layers.fast.replacement import replace_layers
from densevit.targets.types import TargetTypes
from densevit_workbench.testing.check_results import NotChecked
from densevit_workbench.testing.fixtures import Factory, Fixture, Size, grid, weighted_sum
from densevit_workbench.testing.targets import has_random, random_targets
from densevit_workbench.testing.token_blocks import takes_blocks

GRID: Size = (96, 128)  # (H, W) of a batch
IMAGES: tuple[Size, ...] = (GRID, (64, 96), (80, 50))  # (H, W) of the batch's images, without padding


class FeatureLevels(NamedTuple):
    """Channels and strides, one per feature."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


class HeadBatch(NamedTuple):
    """A head's input. features: (B, C_i, h_i, w_i). padding_mask: (B, H, W) bool, True = padding."""

    features: list[Tensor]
    padding_mask: Tensor
    targets: list[Targets]

    def copies(self) -> list[Tensor]:
        """Copies of the features, for a head that modifies them in place."""
        return [feature.clone() for feature in self.features]

    def unlabelled(self) -> list[Targets]:
        """The targets without labels, as in prediction."""
        return [{key: target[key] for key in ("size", "original_size")} for target in self.targets]

    def first(self) -> "HeadBatch":
        """A batch of the first image alone."""
        return HeadBatch([x[:1] for x in self.features], self.padding_mask[:1], self.targets[:1])


class HeadFixture(Fixture):
    """A head. levels: feature levels in most checks. reach: the parameter of `check_head`."""

    group = "heads"
    required_targets: tuple[str, ...] = ()  # set by `build`, like `task` and `types`
    types: TargetTypes

    def __init__(self, factory: Factory, channels: Sequence[int], strides: Sequence[int], reach: int) -> None:
        super().__init__(factory)
        self.levels, self.reach = FeatureLevels(tuple(channels), tuple(strides)), reach
        self.types = self._registered_types = TargetTypes()
        self.task: str = getattr(factory.func if isinstance(factory, functools.partial) else factory, "task", "")

    @property
    def unknown(self) -> str:
        """Target keys in `required_targets` without random targets, comma-separated."""
        return ", ".join(key for key in self.required_targets if not has_random(key, self.types))

    def require_labels(self) -> None:
        """Raises NotChecked if the head needs a target whose type has no `random`."""
        if self.unknown:
            raise NotChecked(f"not checked: there are no random targets for {self.unknown}")

    def build(
        self, seed: int = 0, levels: FeatureLevels | None = None, classes: int = 4, order: Sequence[int] | None = None
    ) -> Head:
        """A new head.

        classes: the number of classes; ignored for depth, which has none. order: a permutation of the classes.
        """
        torch.manual_seed(seed)
        registered = self.classes(classes)
        head: Head = self.factory(
            *(levels or self.levels), tuple(registered[i] for i in order) if order and registered else registered
        )
        self.plugin = type(head)
        self.task, self.required_targets = getattr(head, "task", ""), getattr(head, "required_targets", ())
        head_types = getattr(head, "target_types", None)
        self.types = TargetTypes(head_types) if head_types else self._registered_types
        return self._as_built(head)

    @staticmethod
    def _as_built(head: Head) -> Head:
        """Replaces layers by faster ones, as `create_model`. A head that runs a backbone's last blocks gets substitute
        blocks instead of features."""
        replace_layers(head)
        if getattr(head, "last_blocks", None) is not None:
            head.register_forward_pre_hook(takes_blocks)
        return head

    def build_with(self, **options: Any) -> Head:
        head: Head = self.plugin(*self.levels, self.classes(4), **{**self.options, **options})  # type: ignore[assignment]
        return self._as_built(head)

    def classes(self, count: int) -> tuple[Class, ...]:
        """Things and a stuff class, with file ids unlike their indices; empty for depth."""
        classes = (Class(f"class {i}", 2 * i + 5, (i, i, i), thing=i != 1) for i in range(count))
        return () if self.task == "depth" else tuple(classes)

    def batch(
        self,
        levels: FeatureLevels | None = None,
        size: Size = GRID,
        images: Sequence[Size] = IMAGES,
        classes: int = 4,
        objects: Sequence[int] = (3, 3, 3),
        labelled: Sequence[bool] = (True, True, True),
        scale: float = 1.0,
        seed: int = 1,
    ) -> HeadBatch:
        """Random features and targets; deterministic.

        images: (h, w) of each image, at the top left of the batch's grid. objects: the number of objects per image.
        labelled: which images have the target keys of `required_targets`. scale: standard deviation of the features.
        """
        generator = torch.Generator().manual_seed(seed)
        features = [
            scale * torch.randn(len(images), channels, *grid(size, stride), generator=generator)
            for channels, stride in zip(*(levels or self.levels), strict=True)
        ]
        mask = torch.ones(len(images), *size, dtype=torch.bool)
        targets = []
        for i, (h, w) in enumerate(images):
            mask[i, :h, :w] = False
            required_targets, original = self.required_targets if labelled[i] else (), (2 * h + 3, 3 * w - 1)
            targets.append(
                random_targets(required_targets, (h, w), classes, generator, objects[i], i, original, self.types)
            )
        return HeadBatch(features, mask, targets)

    def train_losses(self, head: Head, batch: HeadBatch) -> Losses:
        """The weighted loss terms of a forward pass in training mode, by name."""
        outputs = head.train()(batch.copies(), batch.padding_mask, batch.targets)
        return head.loss(outputs, batch.targets, LossContext())

    def predictions(self, head: Head, batch: HeadBatch) -> list[Predictions]:
        """The predictions in evaluation mode, without gradients and labels."""
        with torch.no_grad():
            return head.predict(head.eval()(batch.copies(), batch.padding_mask), batch.unlabelled())

    def run(self, module: Head) -> dict[str, Tensor]:
        return flattened(self.predictions(module, self.batch()))

    def training_loss(self, module: Head, attempt: int = 0) -> Tensor:
        batch = self.batch(seed=attempt + 1)
        if not self.unknown:
            return total(self.train_losses(module, batch))
        outputs = module.train()(batch.copies(), batch.padding_mask, batch.targets)  # losses need labels
        return weighted_sum([x for x in tensors(outputs) if x.requires_grad], seed=attempt)


def total(losses: Losses) -> Tensor:
    """The sum of all losses, in float32."""
    return torch.stack([value.float() for value in losses.values()]).sum()


def flattened(predictions: Sequence[Predictions]) -> dict[str, Tensor]:
    """All tensors of all predictions by name, for messages."""
    return {
        f"predictions[{i}][{key!r}]": value.float()
        for i, prediction in enumerate(predictions)
        for key, value in prediction.items()
        if isinstance(value, Tensor)
    }


def tensors(value: Any) -> list[Tensor]:
    """Every floating-point tensor in nested dicts, lists and tuples."""
    return [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]
