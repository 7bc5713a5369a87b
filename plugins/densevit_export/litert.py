"""LiteRT's tflite files: converts traced models, and stores the weights of layers in fp16."""

import io
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from densevit_export.resized_parameters import with_resized_parameters

_HALVED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE")
"""The layers whose weights LiteRT's quantizer stores in fp16."""


def convert(program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], path: Path) -> bytes:
    """Converts a traced model to a tflite file in float32, and returns its content. The program is changed in place."""
    import litert_torch

    simplify(program)
    litert_torch.convert(with_resized_parameters(program.module()), sample_kwargs=dict(inputs)).export(str(path))
    return path.read_bytes()


def simplify(program: torch.export.ExportedProgram) -> None:
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


class HalfLayers:
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
        self.names = [module_name(scope) for _, scope in self.layers]

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


def module_name(scope: str) -> str:
    """The name of the module that computes a layer, such as backbone.conv1, from the layer's scope, such as
    a.Graph/b.Model_model/c.Backbone_backbone/d.Conv_conv1;2;."""
    *_, layer = [part for part in scope.split(";") if "/" in part] or [scope]
    return ".".join(part.rpartition(".")[2].partition("_")[2] for part in layer.split("/")[2:]) or scope


def float32_layers(
    layers: Sequence[int], error: Callable[[Sequence[int]], float], limit: float, limit_of_part: float
) -> dict[int, float]:
    """Searches the layers that stay in float32, by halving.

    error: the error of a file with only these layers in half precision. All layers together may have an error of
    `limit`, each half of them, each quarter and so on one of `limit_of_part`. Returns the layers above it and their
    errors.
    """
    measured = error(layers)
    if measured <= limit:
        return {}
    if len(layers) == 1:
        return {layers[0]: measured}
    middle = len(layers) // 2
    halves = [float32_layers(part, error, limit_of_part, limit_of_part) for part in (layers[:middle], layers[middle:])]
    return halves[0] | halves[1]
