"""The image size of `predict`, and a check that its windows are smaller than the images."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from densevit.config import InferenceSection
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import ConfigError
from densevit.interfaces import Size
from densevit.model import InferenceModel

ImageSize = int | Size | Literal["source"]
"""The long side, the (height, width) that images are fitted into, or "source": images keep their size."""


def requested_size(image_size: Any, options: Mapping[str, Any], model: InferenceModel) -> ImageSize | None:
    """The image size of a call of `predict`: `image_size` if set; else "source" for a call with a window; else None, as
    in evaluation.

    options: the inference options of the call, which the model has. Raises ConfigError for a size that the model cannot
    use.
    """
    size = None if image_size is None else _checked(image_size)
    if size is None:
        if options.get("window") is None:
            return None
        _check_all_take_windows(model)
        size = "source"
    _check_input_size(size, model)
    return size


def transform_to(image_size: ImageSize | None, evaluation: EvaluationTransform | None) -> EvaluationTransform | None:
    """The transform to an image size; None: images keep their size. evaluation: the model's evaluation transform."""
    if image_size is None:
        return evaluation
    return None if image_size == "source" else EvaluationTransform(DefaultTransforms(image_size))


def warn_of_unused_windows(
    inference: Mapping[str, InferenceSection], sizes: Iterable[Size], resize: EvaluationTransform | None
) -> None:
    """Warns if heads have windows and no image is larger than any of them.

    sizes: (H, W) of the images before `resize`.
    """
    windowed = [options for options in inference.values() if options.window is not None]
    resized = [(size if resize is None else resize.size_of(*size)) for size in sizes]
    is_larger = any(
        round(max(options.scales) * side) > most
        for options in windowed
        for size in resized
        for side, most in zip(size, options.window_sides or size, strict=True)
    )
    if not windowed or not resized or is_larger:
        return
    largest = max(resized, key=lambda size: size[0] * size[1])
    fix = "Fix: use a smaller window" + ("." if resize is None else ", or image_size source (no resizing).")
    windows = " and ".join(dict.fromkeys(_shown(options.window_sides) for options in windowed))
    grid = "" if resize is None else " after resizing"
    warnings.warn(
        f"window {windows}: no image is larger (the largest has {_shown(largest)} pixels{grid}), so the windows have "
        f"no effect. {fix}",
        stacklevel=3,
    )


def _checked(image_size: Any) -> ImageSize:
    if image_size == "source":
        return "source"
    sides = [*image_size] if isinstance(image_size, list | tuple) else [image_size]
    if any(type(side) is not int or side < 1 for side in sides) or len(sides) not in (1, 2):
        raise ConfigError(
            f"image_size is {image_size!r}; a side (1280), height and width (960x1280), or source (no resizing) is "
            "expected."
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _check_all_take_windows(model: InferenceModel) -> None:
    """Raises ConfigError if a head without windows would process images at full size in one pass by default."""
    unwindowed = [name for name in model.heads if name not in model.inference]
    if unwindowed:
        raise ConfigError(
            f"window: windows are cut from images without resizing, but {_heads(unwindowed)} takes no windows and "
            "would process the full image in one pass. Fix: set image_size too: a side, or source."
        )


def _check_input_size(size: ImageSize, model: InferenceModel) -> None:
    """Raises ConfigError if a backbone with a fixed input size would get images of another size."""
    fixed, inference = model.backbone.input_size, model.inference
    unwindowed = [name for name in model.heads if name not in inference or inference[name].window is None]
    if fixed is not None and size != fixed and unwindowed:
        windows = f"add windows of that size (window {_shown(fixed)}), or "
        windows = windows if all(name in inference for name in unwindowed) else ""
        raise ConfigError(
            f"image_size {_shown(size)}: the backbone takes images of {_shown(fixed)} only, and {_heads(unwindowed)} "
            f"predicts images in one pass. Fix: {windows}omit image_size."
        )


def _heads(names: Iterable[str]) -> str:
    return ", ".join(f"heads.{name}" for name in names)


def _shown(size: ImageSize | None) -> str:
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)
