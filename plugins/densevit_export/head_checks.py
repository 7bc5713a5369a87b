"""Checks a head's export, for `densevit check`: traces `exported`, runs the file, and decodes its outputs."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densevit.errors import DensevitError
from densevit.interfaces import Size
from densevit.model import DenseModel
from densevit_export import file_comparison, files, runtimes
from densevit_export.exported_outputs import (
    SupportsExport,
    SupportsPredictExported,
    exported,
    is_exportable,
    predict_exported,
    predicts_exported,
)
from densevit_export.exporting import LIMIT
from densevit_export.graph import ExportedGraph
from densevit_export.selections import load_selections

_TIES = 1e-3  # share of values that rounding may change, such as pixels with two equally likely classes

Require = Callable[[object, str, str, str], None]
"""Called with a condition, and phrases for what was found, what is expected and the fix; raises if it is false."""


def check_export(model: DenseModel, sizes: Sequence[Size], fix: str, require: Require) -> str:
    """`torch.export` traces the head's `exported`; the file gives equal results for another batch and another size.

    model: has one head. sizes: two image sizes; the first is traced. fix: the fix of most failures. Returns the reason
    if nothing is checked.
    """
    if not all(map(is_exportable, model.heads.values())):
        return "has no exported(): `densevit export` refuses a model with it"
    graph = ExportedGraph(model).eval()
    images = file_comparison.example_images(sizes[0], 2, 0)
    with torch.no_grad():
        outputs = graph(torch.from_numpy(images))
    for name, value in outputs.items():
        require(
            value.shape[:1] == (2,),
            f"exported() with {name!r} of shape {tuple(value.shape)} for 2 images",
            "the batch as first dimension",
            "return tensors (B, ...)",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.pt2"
        try:
            written = files.write(graph, path, sizes[0], {})
        except DensevitError as error:
            message = str(error).partition(" See docs/export.md")[0].rstrip(".")
            require(False, message, "an exported file", fix)
            raise
        assert isinstance(written, torch.export.ExportedProgram)  # of a pt2 file
        require(
            not any("grid_sample" in str(node.target) for node in written.graph.nodes),
            "grid_sample in the exported graph",
            "gathers, because TensorRT was reported to compute GridSample wrong (NVIDIA/TensorRT#4813)",
            "use MultiScaleDeformableAttention of densevit.layers.deformable_attention, or sample by indexing",
        )
        run = runtimes.load(path)
        examples = [
            file_comparison.example_images(size, count, count) for count, size in zip((2, 1), sizes, strict=True)
        ]
        errors = [file_comparison.differences(graph, run, images) for images in examples]
        if any(max(by_name.values()) > LIMIT for by_name in errors):  # rounding may change a head's selection
            selections = load_selections(graph.model, written)
            errors = [file_comparison.differences(graph, run, images, selections) for images in examples]
    for images, by_name in zip(examples, errors, strict=True):
        name = max(by_name, key=lambda key: by_name[key])
        count, _, height, width = images.shape
        require(
            by_name[name] <= LIMIT,
            f"{name!r} of the exported file that differs by {by_name[name]:.1e} of its range for {count} images of "
            f"{height} x {width}",
            f"at most {LIMIT:.0e}",
            fix,
        )
    return ""


def check_exported_predictions(
    head: Any, features: Sequence[Tensor], padding_mask: Tensor, size: Size, require: Require
) -> str:
    """`predict_exported` turns outputs of `exported` into the predictions of `predict`.

    features, padding_mask: the input of the head, of one image of this size. Returns the reason if nothing is checked.
    """
    if not is_exportable(head) or not predicts_exported(head):
        return "has no predict_exported(): its exported files cannot be evaluated"
    if not any(isinstance(head, protocol) for protocol in (SupportsExport, SupportsPredictExported)):
        return "predict_exported of a DenseHead, covered by the checks of maps"
    target: Any = {"size": size, "original_size": size}
    with torch.no_grad():
        outputs = head.eval()(features, padding_mask)
        [predicted] = head.predict(outputs, [target])
        [decoded] = predict_exported(head, exported(head, outputs, size), [target])
    expected, actual = (
        {f"predictions[0][{key!r}]": value.float() for key, value in values.items() if isinstance(value, Tensor)}
        for values in (predicted, decoded)
    )
    fix = "repeat what predict does after the outputs of exported(), in pixels of the targets' size"
    require(
        actual.keys() == expected.keys(), f"{sorted(actual)}", f"the predictions of predict, {sorted(expected)}", fix
    )
    for name, want in expected.items():
        same = actual[name].shape == want.shape
        require(same, f"{name} of shape {tuple(actual[name].shape)}", f"{tuple(want.shape)}, as of predict", fix)
        tolerance = LIMIT * max(1.0, float(want.abs().max())) if want.numel() else 0.0
        share = float(((actual[name] - want).abs() > tolerance).float().mean()) if want.numel() else 0.0
        require(
            share <= _TIES, f"{name} that differs from predict's in {share:.1%} of its values", "the same values", fix
        )
    return ""
