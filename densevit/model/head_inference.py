"""Inference options by head: checks what dense heads and box heads support."""

from collections.abc import Mapping
from typing import Protocol

from torch import nn

from densevit.config import InferenceSection, ModelSections
from densevit.errors import ConfigError
from densevit.interfaces import Backbone, DenseHead, Head, TargetType
from densevit.targets.types import TargetTypes

_BOXES = ("boxes", "labels")


class SupportsHeads(Protocol):
    """The part of a model that its inference options depend on."""

    backbone: Backbone
    heads: Mapping[str, Head]

    def plugin_name(self, head: str) -> str: ...


def inference_by_head(
    model: SupportsHeads, inference: InferenceSection, head_options: Mapping[str, InferenceSection] | None = None
) -> dict[str, InferenceSection]:
    """The options of each head that predicts maps or boxes: its `head_options`, or else `inference`.

    head_options: `heads.NAME.inference` by head. Box heads use only the windows and NMS of `inference`, dense heads all
    but NMS. Raises ConfigError for head options that the head does not support, for options of `inference` that no
    head supports, and for a window other than the backbone's `input_size`.
    """
    head_options = head_options or {}
    dense = [name for name, head in model.heads.items() if isinstance(head, DenseHead)]
    boxes = [name for name, head in model.heads.items() if name not in dense and predicts_boxes(head)]
    for name, options in head_options.items():
        if name in boxes and _averaging_keys(options):
            raise ConfigError(
                f"{', '.join(_averaging_keys(options, f'heads.{name}.'))} averages dense maps, but "
                f"{_without_maps(model, name)}. Fix: leave it out; windows are supported for boxes."
            )
        if name not in dense + boxes:
            raise ConfigError(
                f"heads.{name}.inference: averages dense maps, but {_without_maps(model, name)}. "
                "Fix: leave it out; the head predicts in one pass."
            )
    unused = _averaging_keys(inference) if boxes else _augmentation_keys(inference)
    if unused and not dense:
        heads = "; ".join(_without_maps(model, name) for name in model.heads) or "this model has no heads"
        raise ConfigError(
            f"{', '.join(unused)} averages dense maps, but {heads}. Dense heads, such as segmentation and depth, "
            "support it; heads of boxes support windows. Fix: leave "
            f"{'it out' if boxes else 'the section `inference` at its defaults'} for this model."
        )
    by_head = {
        name: head_options.get(name, used_options(model.heads[name], inference))
        for name in model.heads
        if name in dense + boxes
    }
    maps = {f"heads.{name}.": options for name, options in head_options.items() if name in dense}
    for where, options in (maps if boxes else {"": inference, **maps}).items():
        if options.nms is not None:
            raise ConfigError(
                f"{where}inference.nms={options.nms} removes duplicate boxes; only heads that predict boxes, without "
                "masks and keypoints, support it. Fix: leave it out."
            )
    fixed = model.backbone.input_size
    for name, options in by_head.items():
        resized = options.window is not None or options.scales != (1.0,)
        if fixed is not None and options.window_sides != fixed and resized:
            prefix = f"heads.{name}." if name in head_options else ""
            keys = ", ".join(_augmentation_keys(options, prefix))
            raise ConfigError(
                f"{keys}: the backbone takes images of {fixed[0]}x{fixed[1]} only. Fix: set "
                f"{prefix}inference.window=[{fixed[0]},{fixed[1]}]."
            )
    return by_head


def inference_of(model: SupportsHeads, sections: ModelSections) -> dict[str, InferenceSection]:
    """`inference_by_head` with the options of a model's sections."""
    return inference_by_head(model, sections.inference, sections.inference_by_head)


def used_options(head: nn.Module, options: InferenceSection) -> InferenceSection:
    """The options that a dense head uses, all but NMS, or that a head of boxes uses, windows and NMS."""
    unused = ("nms",) if isinstance(head, DenseHead) else ("average", "flip", "scales")
    return InferenceSection(**options.model_dump(exclude={*unused}))


def predicts_boxes(head: nn.Module) -> bool:
    """Whether a head needs labelled boxes, and no other targets that windows cut, such as masks and keypoints."""
    required_targets, types = getattr(head, "required_targets", ()), TargetTypes(getattr(head, "target_types", None))
    other_types = [types.get(key) for key in required_targets if key != "boxes"]
    return set(_BOXES) <= {*required_targets} and all(
        target_type is not None and moves_with_box(target_type) for target_type in other_types
    )


def moves_with_box(target_type: TargetType) -> bool:
    """Whether values are per object and independent of the image's geometry: labels, but not masks."""
    methods = ("crop", "resize", "hflip", "rotate")
    return target_type.per == "object" and all(
        getattr(type(target_type), name) is getattr(TargetType, name) for name in methods
    )


def _without_maps(model: SupportsHeads, name: str) -> str:
    head = model.heads[name]
    text = f"heads.{name} ({model.plugin_name(name)}) makes none: it is not a DenseHead"
    if not predicts_boxes(head):
        required_targets = ", ".join(getattr(head, "required_targets", ())) or "nothing"
        text += (
            f", and windows can merge only the predictions of heads of boxes and labels (it needs {required_targets})"
        )
    return text


def _augmentation_keys(options: InferenceSection, prefix: str = "") -> list[str]:
    """The options of windows, flips, scales and averages that are not defaults, as overrides."""
    window = [] if options.window is None else [f"{prefix}inference.window={options.window}"]
    return window + _averaging_keys(options, prefix)


def _averaging_keys(options: InferenceSection, prefix: str = "") -> list[str]:
    """The options of flips, scales and averages, for maps only, that are not defaults, as overrides."""
    flip = [f"{prefix}inference.flip=true"] if options.flip else []
    scales = [f"{prefix}inference.scales={[*options.scales]}"] if options.scales != (1.0,) else []
    return flip + scales + ([f"{prefix}inference.average={options.average}"] if options.average != "logits" else [])
