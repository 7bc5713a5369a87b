"""Files with post-processing: they compute the predictions of `densevit predict`, with NMS, merging, resizing and score
thresholds.

The trace contains `Head.predict` itself, with symbols for the sizes of the image and of its original.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densevit.errors import ConfigError, head_names
from densevit.interfaces import Predictions, Size
from densevit.model import Threshold
from densevit.model.zoom import at_reference_size
from densevit.targets.types import TargetTypes, above_threshold
from densevit_export import file_comparison, files, prediction_comparison
from densevit_export.graph import ExportedGraph, original_size
from densevit_export.runtimes import IMAGES, ORIGINAL_SIZE, THRESHOLDS, Run

_ORIGINAL = "original"  # an input of the traced graph; only its size is used


class PredictionGraph(nn.Module):
    """A graph that computes the predictions for one image. heads: the heads with a score threshold, in the order of the
    input `thresholds`."""

    def __init__(self, graph: ExportedGraph, heads: list[str]) -> None:
        super().__init__()
        self.exported, self.heads = graph, heads  # `graph` is an attribute of traced modules

    def forward(
        self, images: Tensor, original: Tensor, thresholds: Tensor, focal: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The predictions of all heads by name, HEAD/NAME for several heads, in pixels of the original image.

        images: (1, C, h, w), resized. original: (..., H, W); only its size is used. thresholds: (T,), the lowest score
        of an object, for each of `heads`. focal: (1,), in pixels of the original image.
        """
        outputs: dict[str, Tensor] = {}
        lowest: dict[str, Any] = dict(zip(self.heads, thresholds, strict=True))
        for name, predictions in predict(self.exported, images, original_size(original), lowest, focal).items():
            types = TargetTypes(getattr(self.exported.model.heads[name], "target_types", None))
            predictions = above_threshold(predictions, lowest.get(name), types)
            outputs |= {self.exported.prefix(name) + key: value for key, value in predictions.items()}
        return outputs


def predict(
    graph: ExportedGraph, images: Tensor, original: Size, lowest: Mapping[str, Any], focal: Tensor | None = None
) -> dict[str, Predictions]:
    """The predictions of each head for one resized image (1, C, h, w), in pixels of `original`.

    lowest: scores by head; objects of lower scores may be left out. focal: (1,), in pixels of the images that the file
    takes, for heads of a canonical camera.
    """
    size = (images.shape[-2], images.shape[-1])
    focal = graph.resized_focal(focal, size, original)
    target: Any = {"size": size, "original_size": original, "focal": focal}
    made = {name: {**outputs, "lowest_score": lowest.get(name, 0.0)} for name, outputs in graph.made(images).items()}
    by_head = at_reference_size(
        graph.model.predictions(made, [target]),
        [target],
        graph.model.target_types,
        graph.references,
        graph.model.canonical_focals,
    )
    return {name: prediction for name, (prediction,) in by_head.items()}


def thresholds_of(
    graph: ExportedGraph, size: Size, threshold: Threshold | None, defaults: Mapping[str, float]
) -> dict[str, float]:
    """The score threshold of each head that predicts scores.

    size: (H, W) of an image that the file takes. threshold: one for all heads, or one by head; None: the defaults.
    Raises ConfigError for a threshold of another head, or outside 0 to 1.
    """
    heads = _heads_with_scores(graph, size)
    if isinstance(threshold, float | int) and not heads:
        raise ConfigError("threshold: no head of this model predicts scores. Fix: leave it out.")
    if threshold is None:
        threshold = {name: defaults[name] for name in heads}
    elif isinstance(threshold, Mapping):
        head_names(threshold, heads, "export: threshold", "head with scores")
    by_head = {name: threshold.get(name, 0.0) if isinstance(threshold, Mapping) else threshold for name in heads}
    for name, score in by_head.items():
        if not 0 <= score <= 1:
            raise ConfigError(f"threshold of {name!r} is {score}; a score from 0 to 1 is expected.")
    return by_head


def _heads_with_scores(graph: ExportedGraph, size: Size) -> list[str]:
    """The heads whose predictions have scores. size: the size of an image that the file takes."""
    with torch.no_grad():
        images = graph.resized(graph.model.blank_images(1, size))
        predictions = predict(graph, images, size, {}, **graph.focal_example(1))
    return [name for name, head_predictions in predictions.items() if "scores" in head_predictions]


def inputs_of(graph: ExportedGraph, original: Size, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """The inputs of a file besides the images, with the focal length of `focal_example`. original: (H, W) of the image
    before resizing. thresholds: one for each head with scores."""
    inputs = {} if graph.resizing is not None else {ORIGINAL_SIZE: np.array(original)}
    inputs |= {name: focal.numpy() for name, focal in graph.focal_example(1).items()}
    return inputs | ({THRESHOLDS: np.array(thresholds, np.float32)} if thresholds else {})


def differences(
    graph: ExportedGraph,
    run: Run,
    images: np.ndarray,
    original: Size,
    thresholds: Mapping[str, float],
    run_selections: Run | None,
    limit: float,
) -> dict[str, float]:
    """Each output's differences between the predictions of the file and of `predict` (`prediction_comparison`).

    images: (1, C, H, W). original: (H, W) of the image; with resizing in the file, the size of `images`. thresholds:
    the file's threshold by head; objects of any score are compared. run_selections: the result of
    `load_selections`. limit: the largest difference that counts as equal.
    """

    def expected() -> dict[str, Predictions]:
        return predict(graph, graph.resized(torch.from_numpy(images)), original, {}, **graph.focal_example(1))

    by_head, result = file_comparison.repeating_selections(graph, images, run_selections, expected)
    outputs = run(images, **inputs_of(graph, original, [0.0] * len(thresholds)))
    selected = run(images, **inputs_of(graph, original, [*thresholds.values()]))
    for name, predictions in by_head.items():
        prefix, head = graph.prefix(name), graph.model.heads[name]
        head_outputs = {key.removeprefix(prefix): value for key, value in outputs.items() if key.startswith(prefix)}
        differs = prediction_comparison.differences(head, predictions, head_outputs, original, limit)
        if name in thresholds:
            count = int((head_outputs["scores"] >= np.float32(thresholds[name])).sum())
            if len(selected[f"{prefix}scores"]) != count:
                differs["objects"] = float("inf")
        result |= {prefix + key: value for key, value in differs.items()}
    return result


def write(
    graph: ExportedGraph,
    path: Path,
    size: Size,
    thresholds: Mapping[str, float],
    header: Mapping[str, Any],
    begin: files.Begin = lambda name: None,
    rewrite: files.Rewrite = files.unchanged,
) -> None:
    """Traces the graph with post-processing and writes it as ONNX. Other parameters: see `files.write`.

    thresholds: an example of the file's input `thresholds`, by head. Raises DensevitError if the model or `predict` of
    a head cannot be traced.
    """
    predictions = PredictionGraph(graph, [*thresholds]).eval()
    larger = (size[0] + 6, size[1] + 14)
    defaults = torch.tensor([*thresholds.values()], dtype=torch.float32)
    with files.tracing(graph.model):
        resizing = None if graph.resizing is None else files.converted_resizing(graph, larger, begin)
        begin(files.TRACING)
        blank = graph.model.blank_images
        original = torch.zeros(larger, dtype=torch.uint8) if resizing is None else blank(1, larger)
        focal = graph.focal_example(1)
        examples = (blank(1, size), original, defaults, *focal.values())
        names = list(predictions(*examples))
        varies = torch.export.Dim.DYNAMIC
        sides: tuple[dict[int, Any], ...] = (
            {2: varies, 3: varies},
            {original.ndim - 2: varies, original.ndim - 1: varies},
            *({} for _ in (defaults, *focal)),
        )
        program = torch.export.export(predictions, examples, dynamic_shapes=sides, strict=False)
        rewrite(program)
        begin(files.CONVERTING)
        inputs = [IMAGES, _ORIGINAL] if resizing is None else ["resized", IMAGES]
        exported = files.converted(program, [*inputs, THRESHOLDS, *focal], names)
        if resizing is None:
            _take_size(exported.model.graph)
        else:
            files.prepend(resizing, exported.model.graph)
        if not thresholds:
            _remove_input(exported.model.graph, THRESHOLDS)
        begin(files.SAVING)
        files.save(exported, path, header)


def _take_size(graph: Any) -> None:
    """Replaces the input `original` by the input `original_size` (2,) int64. graph: onnx_ir.Graph."""
    import onnx_ir

    (original,) = (value for value in graph.inputs if value.name == _ORIGINAL)
    size = onnx_ir.Value(name=ORIGINAL_SIZE, shape=onnx_ir.Shape([2]), type=onnx_ir.TensorType(onnx_ir.DataType.INT64))
    pixel = onnx_ir.AttrTensor("value", onnx_ir.tensor(np.zeros(1, np.uint8)))
    node = onnx_ir.Node("", "ConstantOfShape", [size], [pixel], name=_ORIGINAL)
    (made,) = node.outputs
    made.name, made.type = f"{_ORIGINAL}_pixels", onnx_ir.TensorType(onnx_ir.DataType.UINT8)
    onnx_ir.convenience.replace_all_uses_with(original, made)
    graph.inputs[graph.inputs.index(original)] = size
    graph.insert_before(graph[0], node)


def _remove_input(graph: Any, name: str) -> None:
    """Removes an input that no node uses. graph: onnx_ir.Graph."""
    graph.inputs.remove(next(value for value in graph.inputs if value.name == name))
