"""Files for images of one size, the canvas: LiteRT's tflite and ExecuTorch's pte, for phones."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densevit.errors import DensevitError, one_line
from densevit.layers.selection import recorded
from densevit_export import file_comparison, files, litert, runtimes
from densevit_export.graph import ExportedGraph
from densevit_export.half_precision import SHARE, TOLERANCE, BlockPrecision, Half, HalfPrecision
from densevit_export.header import append_entry
from densevit_export.resized_parameters import with_resized_parameters
from densevit_export.runtimes import HEADER_FILE, IMAGES, OUTPUTS_FILE, SIZE
from densevit_export.selections import load_selections

PACKAGES = {".tflite": ("litert_torch", "litert-torch"), ".pte": ("executorch", "executorch")}
"""The module and the package that write the files of a suffix."""


class CanvasGraph(nn.Module):
    """A graph whose images have the size of its canvas, and contain a smaller image."""

    def __init__(self, graph: ExportedGraph) -> None:
        super().__init__()
        self.exported = graph  # `graph` is an attribute of traced modules

    def forward(self, images: Tensor, size: Tensor, focal: Tensor | None = None) -> dict[str, Tensor]:
        """images: (1, C, H, W), zeros below and to the right of an image. size: (2,) int32, height and width of this
        image. focal: (1,). Returns the outputs of `ExportedGraph`: boxes in pixels of the image, maps (..., H, W) of
        the canvas; and a two-stage head's selections (`load_selections`).
        """
        height, width = images.shape[-2:]
        below, right = torch.arange(height)[:, None] >= size[0], torch.arange(width) >= size[1]
        with ExitStack() as stack:
            heads = self.exported.model.heads
            made = {name: stack.enter_context(recorded(head)) for name, head in heads.items()}
            outputs = self.exported.outputs(images, focal, padding_mask=(below | right)[None])
        scale = (size / torch.tensor([height, width])).flip(0).repeat(2)
        outputs |= {name: boxes * scale for name, boxes in outputs.items() if name.endswith("boxes")}
        for name, selections in made.items():
            for i, selection in enumerate(selections):
                outputs[f"{self.exported.prefix(name)}selection_{i}"] = selection.indices
                if selection.scores.is_floating_point():
                    outputs[f"{self.exported.prefix(name)}selection_scores_{i}"] = selection.scores
        return outputs


def check_package(path: Path) -> None:
    """Raises DensevitError if the package that writes the file is not installed."""
    module, package = PACKAGES[path.suffix]
    try:
        __import__(module)
    except ImportError:
        raise DensevitError(
            f"{path}: {path.suffix[1:]} files need the package {package}, which is not installed. Fix: pip install "
            f"{package} (see docs/export.md)."
        ) from None


def write(
    graph: ExportedGraph, path: Path, header: Mapping[str, Any], half: Half | None, begin: files.Begin
) -> HalfPrecision | None:
    """Traces the graph for one image of its canvas, and writes it.

    half: fp16, for the weights of a tflite file. Returns the layers that stay in float32, which are in the header; None
    without `half`. Raises DensevitError if the model cannot be traced or converted.
    """
    assert graph.canvas is not None
    module = CanvasGraph(graph).eval()
    for parameter in module.parameters():  # both converters read the memory of channels_last weights in another order
        parameter.data = parameter.data.contiguous()
    size = torch.tensor(graph.canvas, dtype=torch.int32)
    inputs = {IMAGES: graph.model.blank_images(1, graph.canvas), SIZE: size, **graph.focal_example(1)}
    with files.tracing(graph.model):
        begin(files.TRACING)
        program = torch.export.export(module, (), inputs, strict=False)
        begin(f"converting it to {path.suffix[1:]}")
        content = (
            litert.convert(program, inputs, path) if path.suffix == ".tflite" else _executorch(program, inputs, path)
        )
        names = [*module(**inputs)]

    def save(content: bytes, header: Mapping[str, Any]) -> None:
        path.write_bytes(content)
        append_entry(path, OUTPUTS_FILE, names)
        append_entry(path, HEADER_FILE, header)

    precision = None
    if half is not None:
        begin(f"measuring layers in {half}")
        layers, precision = litert.HalfLayers(content), HalfPrecision(half, ())

        def error(selected: Sequence[int]) -> float:
            save(layers.in_fp16(selected), header)
            return _difference(graph, path)

        all_layers, limit = range(len(layers.names)), precision.limit
        errors = litert.float32_layers(all_layers, error, SHARE * limit, TOLERANCE * limit)
        content = layers.in_fp16([i for i in all_layers if i not in errors])
        precision = HalfPrecision(half, [BlockPrecision(layers.names[i], e, "fp32") for i, e in errors.items()])
        header = {**header, "half": precision.as_json()}
    begin(files.SAVING)
    save(content, header)
    return precision


def _difference(graph: ExportedGraph, path: Path) -> float:
    """The largest difference of a file from its graph, on an image of the size of the canvas and on a smaller one."""
    assert graph.canvas is not None
    run, selections = runtimes.load(path), load_selections(graph.model, path)
    height, width = graph.canvas
    images = [
        file_comparison.example_images(size, 1, 0, graph.model.channels)
        for size in ((height, width), (height * 2 // 3, width))
    ]
    return max(max(file_comparison.differences(graph, run, x, selections).values()) for x in images)


def _executorch(program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], path: Path) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    for node in program.graph.nodes:
        if "memory_format" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}
    program.graph_module.recompile()
    program = torch.export.export(with_resized_parameters(program.module()), (), dict(inputs))
    try:
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    except Exception as error:  # of some convolutions, in ExecuTorch 1.5, of any type
        reason = one_line(error)
        warnings.warn(
            f"{path}: XNNPACK refuses the graph ({reason}), so the slow portable kernels run it.", stacklevel=2
        )
        lowered = to_edge_transform_and_lower(program)
    return bytes(lowered.to_executorch().buffer)
