"""Files for images of one size, the canvas: LiteRT's tflite and ExecuTorch's pte, for phones."""

import io
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from densevit.errors import DensevitError, one_line
from densevit.layers.selection import recorded
from densevit_export import file_comparison, files, runtimes
from densevit_export.graph import ExportedGraph
from densevit_export.half_precision import SHARE, TOLERANCE, BlockPrecision, Half, HalfPrecision
from densevit_export.header import append_entry
from densevit_export.runtimes import HEADER_FILE, IMAGES, OUTPUTS_FILE, SIZE
from densevit_export.selections import load_selections

PACKAGES = {".tflite": ("litert_torch", "litert-torch"), ".pte": ("executorch", "executorch")}
"""The module and the package that write the files of a suffix."""
_HALVED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")
"""The layers whose weights LiteRT's quantizer stores in fp16."""


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
        content = _litert(program, inputs, path) if path.suffix == ".tflite" else _executorch(program, inputs, path)
        names = [*module(**inputs)]

    def save(content: bytes, header: Mapping[str, Any]) -> None:
        path.write_bytes(content)
        append_entry(path, OUTPUTS_FILE, names)
        append_entry(path, HEADER_FILE, header)

    precision = None
    if half is not None:
        begin(f"measuring layers in {half}")
        layers, precision = _Layers(content), HalfPrecision(half, ())

        def error(selected: Sequence[int]) -> float:
            save(layers.in_fp16(selected), header)
            return _difference(graph, path)

        all_layers, limit = range(len(layers.names)), precision.limit
        errors = _in_float32(all_layers, error, SHARE * limit, TOLERANCE * limit)
        content = layers.in_fp16([i for i in all_layers if i not in errors])
        precision = HalfPrecision(half, [BlockPrecision(layers.names[i], e, "fp32") for i, e in errors.items()])
        header = {**header, "half": precision.as_json()}
    begin(files.SAVING)
    save(content, header)
    return precision


class _Layers:
    """The layers of a tflite file in float32 whose weights can be stored in fp16.

    names: the layers' modules in the order of computation, such as backbone.layer1.conv1.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils as tflite

        self.content = content
        model = tflite.read_model(content)
        kinds = {code: name for code, name in tflite.TFL_OP_CODE_TO_NAME.items() if name.name in _HALVED}
        self.layers = [
            (kinds[code], tflite.get_op_scope(operation, graph.tensors))
            for graph in model.subgraphs
            for operation in graph.operators
            if (code := model.operatorCodes[operation.opcodeIndex].builtinCode) in kinds
        ]
        self.names = [_module_name(scope) for _, scope in self.layers]

    def in_fp16(self, selected: Sequence[int]) -> bytes:
        """The file with the weights of these layers in fp16."""
        from ai_edge_quantizer import algorithm_manager, quantizer

        if not selected:
            return self.content
        weights = quantizer.Quantizer(self.content)
        casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
        for kind, scope in [self.layers[i] for i in selected]:
            weights.add_weight_only_config(f"^{re.escape(scope)}$", kind, 16, algorithm_key=casting)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), np.errstate(over="ignore"):
            return bytes(weights.quantize().quantized_model)


def _module_name(scope: str) -> str:
    """ "a.Graph/b.Model_model/c.Backbone_backbone/d.Conv_conv1;2;", the scope of a layer, is of backbone.conv1."""
    *_, layer = [part for part in scope.split(";") if "/" in part] or [scope]
    return ".".join(part.rpartition(".")[2].partition("_")[2] for part in layer.split("/")[2:]) or scope


def _in_float32(
    layers: Sequence[int], error: Callable[[Sequence[int]], float], limit: float, limit_of_part: float
) -> dict[int, float]:
    """The layers without which the others, in half precision, have errors of at most the limit, each with its own
    error. Halves of the layers have the limit `limit_of_part`."""
    measured = error(layers)
    if measured <= limit:
        return {}
    if len(layers) == 1:
        return {layers[0]: measured}
    middle = len(layers) // 2
    halves = [_in_float32(part, error, limit_of_part, limit_of_part) for part in (layers[:middle], layers[middle:])]
    return halves[0] | halves[1]


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


def _litert(program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], path: Path) -> bytes:
    import litert_torch

    _simplify(program)
    module = _with_resized_parameters(program.module())
    litert_torch.convert(module, sample_kwargs=dict(inputs)).export(str(path))
    return path.read_bytes()


def _simplify(program: torch.export.ExportedProgram) -> None:
    """Replaces operations that litert-torch 0.10 does not convert or converts wrongly: the factor `alpha` of sums,
    `topk` whose indices are not used, which becomes a sort, and resizing to the nearest cell."""
    graph, aten = program.graph, torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.upsample_nearest2d.vec):
        sizes = zip(node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:], strict=True)
        with graph.inserting_before(node):
            x = node.args[0]
            for dim, (before, after) in enumerate(sizes, 2):
                scaled = graph.call_function(
                    aten.mul.Scalar, (graph.call_function(aten.arange.default, (after,)), before)
                )
                cells = graph.call_function(aten.floor_divide.Scalar, (scaled, after))
                x = graph.call_function(aten.index_select.default, (x, dim, cells))
        node.replace_all_uses_with(x)
        graph.erase_node(node)
    for node in [node for node in graph.nodes if "alpha" in node.kwargs]:
        with graph.inserting_before(node):
            product = graph.call_function(aten.mul.Tensor, (node.args[1], node.kwargs["alpha"]))
        node.args, node.kwargs = (node.args[0], product), {}
    for node in graph.find_nodes(op="call_function", target=aten.topk.default):
        selected: dict[Any, Node] = {use.args[1]: use for use in node.users if use.users}
        if selected.keys() == {0}:
            with graph.inserting_after(selected[0]):
                indices = graph.call_function(operator.getitem, (node, 1))
            with graph.inserting_after(indices):
                values = graph.call_function(aten.gather.default, (node.args[0], [*node.args[2:], -1][0], indices))
            selected[0].replace_all_uses_with(values)
    program.graph_module.recompile()


def _with_resized_parameters(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Replaces the resizing of parameters, such as position embeddings, by its result, in place: neither converter has
    bicubic interpolation."""
    constant: dict[Node, bool] = {}
    for node in module.graph.nodes:
        is_call = node.op == "call_function"
        constant[node] = node.op == "get_attr" or (is_call and all(constant[x] for x in node.all_input_nodes))
    resized = [node for node in constant if constant[node] and "upsample" in str(node.target)]
    for i, node in enumerate(resized):
        module.register_buffer(f"resized_{i}", _value(module, node))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"resized_{i}"))
        module.graph.erase_node(node)
    module.recompile()
    return module


def _value(module: torch.fx.GraphModule, node: Any) -> Any:
    """The value of a node that depends on parameters only."""
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(module)
    args, kwargs = map_arg((node.args, node.kwargs), partial(_value, module))
    return node.target(*args, **kwargs)


def _executorch(program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], path: Path) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    for node in program.graph.nodes:
        if "memory_format" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}
    program.graph_module.recompile()
    program = torch.export.export(_with_resized_parameters(program.module()), (), dict(inputs))
    try:
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    except Exception as error:  # of some convolutions, in ExecuTorch 1.5, of any type
        reason = one_line(error)
        warnings.warn(
            f"{path}: XNNPACK refuses the graph ({reason}), so the slow portable kernels run it.", stacklevel=2
        )
        lowered = to_edge_transform_and_lower(program)
    return bytes(lowered.to_executorch().buffer)
