"""Frozen teachers of distillation: any model that densevit loads, or any backbone."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from densevit import DenseModel, create_model, load
from densevit import config as configs
from densevit.config import BackboneSection, ConfigType, Source
from densevit.errors import ConfigError, DensevitError, WeightsError, listed

BackboneSource = Annotated[str | dict[str, Any], ConfigType(Source | Annotated[BackboneSection, "backbones"])]


def load_teacher(source: str) -> DenseModel:
    """Loads a frozen model with its heads from a source of `densevit.load`.

    Raises WeightsError if it cannot be loaded, for a backbone without heads, and for an exported file, which
    runs in another runtime.
    """
    try:
        model = load(source)
    except DensevitError as error:
        raise WeightsError(f"method.teacher: {error}") from None
    if not any(True for _ in model.backbone.parameters()):
        raise WeightsError(
            f"method.teacher: {source} is an exported file without weights. Fix: name the model that was exported."
        )
    return model.requires_grad_(False).eval()


def load_backbone(source: str | Mapping[str, Any]) -> DenseModel:
    """Loads a frozen backbone, as a model without heads.

    source: a source that `load_teacher` takes, a name of a backbone's weights such as "timm:resnet18", or the name,
    the options and the `weights` of a backbone as in the section `backbone`. Warns about a section without `weights`,
    whose backbone is random.
    """
    if isinstance(source, str):
        try:
            return load_teacher(source).with_heads(())
        except WeightsError as error:
            section = configs.section("backbone", {"name": source}, "method.teacher")
            if section.name == source:
                raise WeightsError(
                    f"{error} Set a backbone without heads as a section: teacher={{name: PLUGIN, weights: {source}}}."
                ) from None
            source = {"name": source}
    if not isinstance(source.get("name"), str):
        raise ConfigError("method.teacher has no name. Fix: teacher: {name: PLUGIN, weights: SOURCE}.")
    section = configs.section("backbone", source, "method.teacher")
    if "weights" not in section.model_fields_set and not section.options.get("pretrained"):
        warnings.warn(
            f"method.teacher: no weights are named, so the backbone {section.name} has those of its constructor, which "
            "are random in built-in backbones. Fix: add weights: SOURCE.",
            stacklevel=2,
        )
    try:
        return create_model(source, heads={}, classes=[]).eval().requires_grad_(False)
    except DensevitError as error:
        raise ConfigError(f"method.teacher: {error}") from None


def teacher_head(teacher: DenseModel, model: DenseModel, name: str) -> str:
    """Returns the name of the teacher's head for a head of the model: of the same name and task, or the only head of
    its task.

    Raises ConfigError if there is none.
    """
    task = model.heads[name].task
    names = [other for other, head in teacher.heads.items() if head.task == task]
    if name in names or len(names) == 1:
        return name if name in names else names[0]
    has = ", ".join(f"{other} ({head.task})" for other, head in teacher.heads.items())
    raise ConfigError(
        f"heads.{name} is for {task}; the teacher has the heads {has}. Fix: use a teacher with one head for {task}, or "
        "with a head of this name."
    )


def class_rows(names: Sequence[str], model: DenseModel, head: str) -> Tensor:
    """Returns the teacher's index of each class of the model's head, (K,) int64, by their names.

    names: the teacher's classes. Raises ConfigError if it lacks a class.
    """
    index = {name: i for i, name in enumerate(names)}
    missing = [cls.name for cls in model.classes[head] if cls.name not in index]
    if missing:
        raise ConfigError(
            f"heads.{head}: the teacher lacks {len(missing)} of {len(model.classes[head])} classes: "
            f"{listed(missing, 3)}. It has "
            f"{listed(names, 3)}. Fix: use a teacher that predicts them, or rename the classes of the data."
        )
    return torch.tensor([index[cls.name] for cls in model.classes[head]], dtype=torch.int64)
