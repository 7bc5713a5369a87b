"""Inference options of each head: what dense heads and heads of boxes can use of them."""

from collections.abc import Mapping

from torch import nn

from densevit.errors import ConfigError
from densevit.interfaces import DenseHead, TargetType
from densevit.model.inference_options import Inference
from densevit.model.test_time_augmentation import MultiHeadModel
from densevit.targets.types import TargetTypes

_BOXES = ("boxes", "labels")


def inference_by_head(
    model: MultiHeadModel, inference: Inference, own: Mapping[str, Inference] | None = None
) -> dict[str, Inference]:
    """The options of each head that makes maps or boxes: its own, `heads.NAME.inference`, else `inference`.

    Heads of boxes take only the windows of `inference`; flips and scales are for maps.
    Raises ConfigError if a head cannot use options of its own, if no head can use those of `inference`, or if a window
    is not the backbone's `input_size`.
    """
    own = own or {}
    dense = [name for name, head in model.heads.items() if isinstance(head, DenseHead)]
    boxes = [name for name, head in model.heads.items() if name not in dense and predicts_boxes(head)]
    for name, options in own.items():
        if name in boxes and _averaging_keys(options):
            raise ConfigError(
                f"{', '.join(_averaging_keys(options, f'heads.{name}.'))} averages dense maps, but "
                f"{_without_maps(model, name)}. Fix: leave it out; windows are supported for boxes."
            )
        if name not in dense + boxes:
            raise ConfigError(
                f"heads.{name}.inference: averages dense maps, but {_without_maps(model, name)}. "
                "Fix: leave it out; the head is predicted in one pass beside the others."
            )
    unused = _averaging_keys(inference) if boxes else _augmentation_keys(inference)
    if unused and not dense:
        heads = "; ".join(_without_maps(model, name) for name in model.heads) or "this model has no heads"
        raise ConfigError(
            f"{', '.join(unused)} averages dense maps, but {heads}. Dense heads, such as segmentation and depth, "
            "support it; heads of boxes support windows. Fix: leave "
            f"{'it out' if boxes else 'the section `inference` at its defaults'} for this model."
        )
    by_head = {name: own.get(name, inference) for name in dense}
    by_head |= {name: own.get(name, windows_only(inference)) for name in boxes}
    fixed = model.backbone.input_size
    for name, options in by_head.items():
        resized = options.window is not None or options.scales != (1.0,)
        if fixed is not None and options.window_sides != fixed and resized:
            prefix = f"heads.{name}." if name in own else ""
            keys = ", ".join(_augmentation_keys(options, prefix))
            raise ConfigError(
                f"{keys}: the backbone takes images of {fixed[0]}x{fixed[1]} only. Fix: set "
                f"{prefix}inference.window=[{fixed[0]},{fixed[1]}]."
            )
    return by_head


def windows_only(options: Inference) -> Inference:
    """The windows alone, without options of maps."""
    return Inference(window=options.window, stride=options.stride, batch_size=options.batch_size)


def predicts_boxes(head: nn.Module) -> bool:
    """Whether a head predicts labelled boxes, and nothing else that windows cut, such as masks and keypoints.

    Decided by the targets that it needs.
    """
    needs, types = getattr(head, "needs", ()), TargetTypes(getattr(head, "target_types", None))
    others = [types.get(key) for key in needs if key != "boxes"]
    return set(_BOXES) <= {*needs} and all(one is not None and moves_with_box(one) for one in others)


def moves_with_box(target_type: TargetType) -> bool:
    """Whether values belong to objects and do not change with the geometry of their image: labels, but not masks."""
    methods = ("crop", "resize", "hflip", "rotate")
    return target_type.per == "object" and all(
        getattr(type(target_type), name) is getattr(TargetType, name) for name in methods
    )


def _without_maps(model: MultiHeadModel, name: str) -> str:
    head = model.heads[name]
    text = f"heads.{name} ({model.plugin_name(name)}) makes none: it is not a DenseHead"
    if hasattr(head, "maps"):
        return f"{text}. Fix: class {type(head).__name__}(densevit.DenseHead)"
    if not predicts_boxes(head):
        needs = ", ".join(getattr(head, "needs", ())) or "nothing"
        text += f", and it is not a head of boxes and labels only (it needs {needs}), which windows can merge"
    return text


def _augmentation_keys(options: Inference, prefix: str = "") -> list[str]:
    """The keys of windows, flips, scales and averages, written as overrides."""
    window = [] if options.window is None else [f"{prefix}inference.window={options.window}"]
    return window + _averaging_keys(options, prefix)


def _averaging_keys(options: Inference, prefix: str = "") -> list[str]:
    """The keys of flips, scales and averages, which are of maps only."""
    flip = [f"{prefix}inference.flip=true"] if options.flip else []
    scales = [f"{prefix}inference.scales={[*options.scales]}"] if options.scales != (1.0,) else []
    return flip + scales + ([f"{prefix}inference.average={options.average}"] if options.average != "logits" else [])
