"""Builds the training and the evaluation transform of a config's section `data`."""

from typing import TYPE_CHECKING

from densevit.channels import RGB, Channels
from densevit.config import DataSection
from densevit.data.transforms.sample_resizing import (
    EvaluationTransform,
    WithoutAugmentation,
    build_evaluation_transform,
)
from densevit.errors import ConfigError
from densevit.interfaces import Transforms

if TYPE_CHECKING:
    from densevit.data.transforms.sample_augmentation import Augmentation


def build_transforms(section: DataSection) -> "tuple[Augmentation | WithoutAugmentation, EvaluationTransform]":
    """Builds the training and the evaluation transform of a config's data section."""
    evaluation = build_evaluation_transform(section)
    return build_training_transform(section, evaluation.transforms, evaluation.transforms), evaluation


def build_training_transform(
    section: DataSection, transforms: Transforms, reference: Transforms, channels: Channels = RGB
) -> "Augmentation | WithoutAugmentation":
    """Builds the training transform. transforms: the transforms of training. reference: the transforms of evaluation,
    to which zooms are relative. channels: the images' channels. Raises ConfigError for `vertical_flip` with transforms
    that do not augment."""
    if not transforms.augments:
        if section.vertical_flip:
            raise ConfigError(
                f"data.vertical_flip: the transforms {section.transforms.name!r} do not augment images. Fix: leave it "
                "out, or set data.transforms to transforms that augment, such as crop or default."
            )
        return WithoutAugmentation(EvaluationTransform(transforms), reference)
    from densevit.data.transforms.sample_augmentation import (
        Augmentation,  # late: albumentations takes a second to import
    )

    return Augmentation(transforms, section.vertical_flip, reference, channels)
