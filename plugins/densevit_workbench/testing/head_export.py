"""Checks a head's export: traces `exported`, runs the file on other batches and sizes, and decodes its outputs."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densevit.errors import DensevitError
from densevit.exporting import file_comparison, files
from densevit.exporting.exporting import LIMIT
from densevit.exporting.graph import ExportedGraph
from densevit.exporting.selections import load_selections
from densevit.inference import runtimes
from densevit.interfaces import Backbone, Encoding
from densevit.model import DenseModel
from densevit.model.exported_outputs import (
    SupportsExport,
    SupportsPredictExported,
    exported,
    is_exportable,
    predict_exported,
    predicts_exported,
)
from densevit_workbench.testing.check_results import Failure, NotChecked, check, require
from densevit_workbench.testing.head_fixtures import GRID, HeadFixture, flattened
from densevit_workbench.testing.token_blocks import last_blocks_of

_SIZES = (GRID, (71, 150))
_TIES = 1e-3  # share of values that rounding may change, such as pixels with two equally likely classes
_RULES = (
    "make shapes and branches depend on sizes only: no loops over images, x.shape[0] instead of len(x), no .item() and "
    "no numpy in forward, maps and exported"
)


class PooledImages(Backbone):
    """A backbone that averages images over cells and projects them randomly."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)
        generator = torch.Generator().manual_seed(0)
        for stride, count in zip(strides, channels, strict=True):
            self.register_buffer(f"mix_{stride}", torch.randn(count, 3, 1, 1, generator=generator))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.conv2d(F.avg_pool2d(images, stride), self.get_buffer(f"mix_{stride}")) for stride in self.strides]

    max_last_blocks = 1000

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> Encoding:
        """Feature maps of `forward`, and last blocks on them."""
        maps = self(images)
        return Encoding(maps, {count: last_blocks_of(maps, count) for count in counts})


@check("outputs for an exported file", _RULES)
def export(fixture: HeadFixture) -> None:
    """torch.export traces the head's `exported`; the file gives equal results for another batch and another size."""
    head = fixture.shared()
    if not is_exportable(head):
        raise NotChecked("has no exported(): `densevit export` refuses a model with it")
    graph = ExportedGraph(DenseModel(PooledImages(*fixture.levels), {"head": head})).eval()
    images = file_comparison.example_images(GRID, 2, 0)
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
            written = files.write(graph, path, GRID, {})
        except DensevitError as error:
            raise Failure(
                str(error).partition(" See docs/export.md")[0].rstrip("."), "an exported file", _RULES
            ) from None
        assert isinstance(written, torch.export.ExportedProgram)  # of a pt2 file
        require(
            not any("grid_sample" in str(node.target) for node in written.graph.nodes),
            "grid_sample in the exported graph",
            "gathers, because TensorRT was reported to compute GridSample wrong (NVIDIA/TensorRT#4813)",
            "use MultiScaleDeformableAttention of densevit.layers.deformable_attention, or sample by indexing",
        )
        run = runtimes.load(path)
        examples = [
            file_comparison.example_images(size, count, count) for count, size in zip((2, 1), _SIZES, strict=True)
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
            _RULES,
        )


@check(
    "predictions from an exported file",
    "in predict_exported(exported, targets), repeat what predict does after the outputs of exported()",
)
def exported_predictions(fixture: HeadFixture) -> None:
    """`predict_exported` turns outputs of `exported` into the predictions of `predict`."""
    head: Any = fixture.shared()
    if not is_exportable(head) or not predicts_exported(head):
        raise NotChecked("has no predict_exported(): its exported files cannot be evaluated")
    if not any(isinstance(head, protocol) for protocol in (SupportsExport, SupportsPredictExported)):
        raise NotChecked("predict_exported of a DenseHead, covered by the checks of maps")
    batch = fixture.batch().first()
    target: Any = {"size": GRID, "original_size": GRID}
    with torch.no_grad():
        outputs = head.eval()(batch.copies(), batch.padding_mask)
        expected = flattened(head.predict(outputs, [target]))
        actual = flattened(predict_exported(head, exported(head, outputs, GRID), [target]))
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
