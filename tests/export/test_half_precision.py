"""Files in half precision: types, sizes, and blocks that stay in float32."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densevit
from densevit.model import DenseModel
from densevit_export import file_comparison, files, half_precision, runtimes
from densevit_export.deployment import deployable
from densevit_export.graph import ExportedGraph
from densevit_export.half_precision import HalfPrecision
from tests.small_models import CELLS, FOUR_MAPS, NAIVE, without_zeros

TRACED, SIZE = (97, 130), (75, 107)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "setr": ({"name": "vit", "variant": "nano", "features": (1, 2)}, NAIVE),
    "one-stage": (FOUR_MAPS, CELLS),
}


def predictor_of(name: str) -> DenseModel:
    backbone, head = MODELS[name]
    return without_zeros(densevit.create_model(backbone, {"x": head}, ["a", "b", "c"]))


def graph_of(predictor: DenseModel) -> ExportedGraph:
    return ExportedGraph(deployable(predictor.eval())).eval()


def written(graph: ExportedGraph, path: Path, half: Any) -> HalfPrecision:
    """Writes a file in half precision without the checks of `export`."""
    program = files.traced(graph, TRACED)
    precision = half_precision.measured(graph, program, TRACED, half)
    files.write(graph, path, TRACED, {}, rewrite=precision.set_types, program=program)
    return precision


def errors_of(graph: ExportedGraph, path: Path) -> dict[str, float]:
    images = file_comparison.example_images(SIZE, 2, 1)
    return file_comparison.differences(graph, runtimes.load(path), images)


def types_of(path: Path) -> tuple[Any, dict[str, int]]:
    """The graph of an ONNX file, and the types of its values by name."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return model.graph, types | {one.name: one.data_type for one in model.graph.initializer}


@pytest.mark.integration
def test_heavy_layers_are_in_half_precision_and_others_in_float32(tmp_path: Path):
    import onnx

    graph, path = graph_of(predictor_of("setr")), tmp_path / "model.onnx"
    written(graph, path, "fp16")
    found = runtimes.load(path)(file_comparison.example_images(SIZE, 2, 1))
    assert {value.dtype for value in found.values()} <= {np.dtype("float32"), np.dtype("uint8")}
    assert 0 < max(errors_of(graph, path).values()) < 5e-3
    onnx_graph, types = types_of(path)
    float16, float32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    inputs: dict[str, list[int]] = {}
    for node in onnx_graph.node:
        inputs.setdefault(node.op_type, []).append(types[node.input[0]])
    heavy = [dtype for kind in ("Conv", "ConvTranspose", "MatMul", "Gemm") for dtype in inputs.get(kind, [])]
    assert heavy.count(float16) > 0.8 * len(heavy)
    for kind in ("Softmax", "LayerNormalization", "Resize", "Sigmoid", "Gelu", "Erf"):
        assert {*inputs.get(kind, [])} <= {float32}, kind
    assert {"Softmax", "LayerNormalization"} <= {*inputs}
    weights = [(one.data_type, math.prod(one.dims)) for one in onnx_graph.initializer]
    halved, kept = (sum(count for dtype, count in weights if dtype == kind) for kind in (float16, float32))
    assert halved > 4 * kept


def overflowing() -> DenseModel:
    """A model with a feed-forward network whose hidden values are about 1e6, above the range of fp16."""
    predictor = predictor_of("setr")
    mlp: Any = predictor.backbone.get_submodule("blocks.1.mlp")
    for tensor, factor in ((mlp.expand.weight, 1e6), (mlp.expand.bias, 1e6), (mlp.contract.weight, 1e-6)):
        tensor.data *= factor
    return predictor


@pytest.mark.integration
def test_a_block_that_overflows_stays_in_float32(tmp_path: Path):
    graph, path = graph_of(overflowing()), tmp_path / "model.onnx"
    blocks = written(graph, path, "fp16").blocks
    infinite = [block.name for block in blocks if not math.isfinite(block.error)]
    assert infinite == [block.name for block in blocks if block.precision == "fp32"]
    assert infinite and all(name.startswith("backbone.blocks.1.mlp") for name in infinite)
    assert max(errors_of(graph, path).values()) < 5e-3
