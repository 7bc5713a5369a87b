"""Comparison of an exported file with its model, on images of several sizes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from densevit.channels import FULL_RANGES, RGB, Channels
from densevit.interfaces import DenseHead, Size, TargetType
from densevit.layers.selection import recorded
from densevit.targets.types import TargetTypes
from densevit_export.graph import ExportedGraph
from densevit_export.runtimes import Run

Result = TypeVar("Result")

_CELL = 8  # pixels: images of random cells have edges and areas


@runtime_checkable
class SupportsValueRange(Protocol):
    """A target type that defines the value range for comparing an exported file with its model."""

    def value_range(self, value: np.ndarray, size: Size) -> float:
        """The range of values predicted for images of this size."""


def value_range(target: TargetType | None, value: np.ndarray, size: Size) -> float:
    """`SupportsValueRange.value_range`; by default the difference of the largest and the smallest finite value, or 1 if
    they are equal."""
    if isinstance(target, SupportsValueRange):
        return target.value_range(value, size)
    finite = value[np.isfinite(value)]
    return (float(finite.max() - finite.min()) if finite.size else 0.0) or 1.0


def example_images(size: Size, count: int, seed: int, channels: Channels = RGB) -> np.ndarray:
    """Images (count, C, *size) of random cells with noise; deterministic.

    For channels other than 8-bit RGB, values exceed the range of the channels by a tenth of it, and some floating-point
    values are NaN.
    """
    rng = np.random.default_rng([seed, *size])
    cells = rng.integers(0, 256, (count, len(channels.names), -(-size[0] // _CELL), -(-size[1] // _CELL)))
    pixels = cells.repeat(_CELL, 2).repeat(_CELL, 3)[..., : size[0], : size[1]]
    levels = np.clip(pixels + rng.integers(-20, 21, pixels.shape), 0, 255)
    if channels.is_rgb:
        return levels.astype(np.uint8)
    low, high = np.array(channels.range).T[..., None, None]  # (C, 1, 1) each
    values = low + (high - low) * (1.2 * levels / 255 - 0.1)
    if channels.dtype == "float32":
        return np.where(levels == 0, np.nan, values).astype(np.float32)
    return values.clip(*FULL_RANGES[channels.dtype]).round().astype(channels.dtype)


def differences(
    graph: ExportedGraph, run: Run, images: np.ndarray, run_selections: Run | None = None
) -> dict[str, float]:
    """The largest difference of each floating-point output, relative to its range (`value_range`).

    graph: the model's, in float32. images: (B, C, H, W). run_selections: the result of `load_selections`.
    The model uses the candidates that the file selects, so that the selected queries can be compared one by one. The
    error of a selection: how far the model's scores of the selected candidates fall below its best scores, less twice
    the error of the scores. A class map is compared with `read_maps` of the file's `maps`: the difference is the
    fraction of pixels that differ. Infinite for outputs that are missing or not finite.
    """
    focal = graph.focal_example(len(images))
    outputs = run(images, **{name: x.numpy() for name, x in focal.items()})
    reference, result = repeating_selections(
        graph, images, run_selections, lambda: graph(torch.from_numpy(images), **focal)
    )
    expected = {name: value.numpy() for name, value in reference.items()}
    size = (images.shape[2], images.shape[3])
    result |= relative_errors(graph, outputs, expected, size)
    for head, module in graph.model.heads.items():
        prefix = graph.prefix(head)
        if isinstance(module, DenseHead) and f"{prefix}maps" in outputs:
            read = module.read_maps(torch.from_numpy(outputs[f"{prefix}maps"]))
            result |= {prefix + key: _share(outputs[prefix + key], value) for key, value in read.items()}
    return result


def relative_errors(
    graph: ExportedGraph, outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], size: Size
) -> dict[str, float]:
    """The largest difference of each floating-point output (`differences`). size: (H, W) of the images."""
    result: dict[str, float] = {}
    for head, module in graph.model.heads.items():
        prefix, types = graph.prefix(head), TargetTypes(getattr(module, "target_types", None))
        for name in (name for name in expected if name.startswith(prefix)):
            key, want = name.removeprefix(prefix), expected[name]
            if name not in outputs or outputs[name].shape != want.shape:
                result[name] = float("inf")
            elif want.dtype.kind == "f":
                span = value_range(types.get(key), want, size)
                result[name] = _largest(outputs[name], want) / span
    return result


def repeating_selections(
    graph: ExportedGraph, images: np.ndarray, run_selections: Run | None, compute: Callable[[], Result]
) -> tuple[Result, dict[str, float]]:
    """Runs `compute` while the model uses the candidates that the exported file selects (`densevit.layers.selection`).

    graph, images, run_selections: the parameters of `differences`. Returns the result of `compute`, and the numeric
    errors of the file's selections and of their scores by name, as in `differences`.
    """
    selected = {} if run_selections is None else run_selections(images)
    with torch.inference_mode(), ExitStack() as stack:
        made = {
            name: stack.enter_context(recorded(head, _selections(selected, graph.prefix(name))))
            for name, head in graph.model.heads.items()
        }
        result = compute()
    errors: dict[str, float] = {}
    for head, selections in made.items():
        prefix = graph.prefix(head)
        for i, selection in enumerate(selections):
            key = f"{prefix}selection_scores_{i}"
            if key in selected:
                want = selection.scores.numpy()
                errors[key] = _largest(selected[key], want) / value_range(None, want, (1, 1))
                indices = selection.indices.numpy()
                errors[f"{prefix}selection_{i}"] = _selection_error(indices, selected[key], selection.scores)
    return result, errors


def worst(differences_by_image: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The largest difference of each output over all images."""
    return {name: max(by_name[name] for by_name in differences_by_image) for name in differences_by_image[0]}


def _selections(outputs: Mapping[str, np.ndarray], prefix: str) -> list[Tensor]:
    """The indices of the candidates that a head selects, one tensor per selection, in order. prefix: the head's prefix
    of output names."""
    form = f"{prefix}selection_"
    return [torch.from_numpy(value) for key, value in outputs.items() if key.removeprefix(form).isdecimal()]


def _largest(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; 0 for equal infinities, the scores of excluded candidates."""
    same = (actual == expected) & ~np.isfinite(expected)
    actual, expected = (np.where(same, 0.0, x).astype(np.float64) for x in (actual, expected))
    difference = actual - expected
    return float(np.abs(difference).max(initial=0.0)) if np.isfinite(difference).all() else float("inf")


def _selection_error(indices: np.ndarray, scores: np.ndarray, expected: Tensor) -> float:
    best = expected.topk(indices.shape[1], dim=1).values.numpy()
    with np.errstate(invalid="ignore"):  # the difference of equal infinities is set to 0
        gap = np.nan_to_num(best - np.take_along_axis(expected.numpy(), indices, 1))
    wrong = max(0.0, float(gap.max(initial=0.0)) - 2 * _largest(scores, expected.numpy()))
    return wrong / value_range(None, expected.numpy(), (1, 1))


def _share(actual: np.ndarray, expected: Tensor) -> float:
    return float((actual != expected.numpy()).mean())
