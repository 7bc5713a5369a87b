"""Files in half precision: types, sizes, and blocks that stay in float32."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.cli import main
from densevit.errors import DensevitError
from densevit.exporting import exporting, file_comparison, files, half_precision, typed_graph
from densevit.exporting.deployment import deployable
from densevit.exporting.graph import ExportedGraph
from densevit.exporting.half_precision import Block, HalfPrecision
from densevit.inference import runtimes
from densevit.inference.predictor import Predictor
from tests.exporting.small_models import CELLS, FOUR_MAPS, NAIVE, NAMES, small_predictor, without_zeros
from tests.exporting.test_exporting import HEADS, untraced

TRACED, SIZE = (97, 130), (75, 107)
VIT = {"name": "vit", "variant": "nano", "features": (1, 2)}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "setr": (VIT, NAIVE),
    "dpt": ({**VIT, "features": (1, 2, 3, 4)}, HEADS["dpt"]),
    "one-stage": (FOUR_MAPS, CELLS),
}


def predictor_of(name: str) -> Predictor:
    backbone, head = MODELS[name]
    torch.manual_seed(0)
    return without_zeros(densevit.create_model(backbone, {"x": head}, None if name == "dpt" else ["a", "b", "c"]))


def graph_of(predictor: Predictor) -> ExportedGraph:
    return ExportedGraph(deployable(predictor.model.eval())).eval()


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

    graph, path = graph_of(predictor_of("dpt")), tmp_path / "model.onnx"
    written(graph, path, "fp16")
    found = runtimes.load(path)(file_comparison.example_images(SIZE, 2, 1))
    assert {value.dtype for value in found.values()} <= {np.dtype("float32"), np.dtype("uint8")}
    errors = errors_of(graph, path)
    assert 0 < max(errors.values()) < 5e-3
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
    weights = {dtype: 0 for dtype in (float16, float32)}
    for one in onnx_graph.initializer:
        weights[one.data_type] = weights.get(one.data_type, 0) + math.prod(one.dims)
    assert weights[float16] > 0.8 * (weights[float16] + weights[float32])


@pytest.mark.integration
def test_pt2_files_have_types(tmp_path: Path):
    graph, path = graph_of(predictor_of("one-stage")), tmp_path / "model.pt2"
    written(graph, path, "bf16")
    assert 0 < max(errors_of(graph, path).values()) < half_precision.LIMITS["bf16"]
    stored = torch.export.load(path).state_dict.values()
    numbers = {kind: sum(one.numel() for one in stored if one.dtype == kind) for kind in {one.dtype for one in stored}}
    assert numbers[torch.bfloat16] > 0.8 * sum(numbers.values())
    assert path.stat().st_size < 3 * sum(numbers.values()) + 2**21  # bytes; the nodes are 1 to 2 MB


def overflowing() -> Predictor:
    """A model with a feed-forward network whose hidden values are about 1e6, above the range of fp16."""
    predictor = predictor_of("setr")
    mlp: Any = predictor.backbone.get_submodule("blocks.1.mlp")
    with torch.no_grad():
        for tensor in (mlp.expand.weight, mlp.expand.bias):
            tensor *= 1e6
        mlp.contract.weight /= 1e6
    return predictor


@pytest.mark.integration
def test_a_block_that_overflows_stays_in_float32(tmp_path: Path):
    graph, path, wrong = graph_of(overflowing()), tmp_path / "model.onnx", tmp_path / "wrong.pt2"
    precision = written(graph, path, "fp16")
    infinite = [block.name for block in precision.blocks if not math.isfinite(block.error)]
    assert infinite == [block.name for block in precision.blocks if block.precision == "fp32"]
    assert infinite and all(name.startswith("backbone.blocks.1.mlp") for name in infinite)
    assert max(errors_of(graph, path).values()) < 5e-3
    everywhere = HalfPrecision("fp16", [replace(block, precision="fp16") for block in precision.blocks])
    files.write(graph, wrong, TRACED, {}, rewrite=everywhere.set_types)
    assert max(errors_of(graph, wrong).values()) == math.inf


def test_a_wrong_file_is_an_error_with_the_worst_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = [Block("stem", 1e-3, "fp16"), Block("neck", 2e-3, "fp16"), Block("stage", math.inf, "fp32")]

    predictor = small_predictor(CELLS)
    untraced(predictor, monkeypatch, 0.02)
    monkeypatch.setattr(exporting, "measured", lambda *_: HalfPrecision("fp16", blocks))
    with pytest.raises(DensevitError, match=r"`scores` differs .* 1e-02 .*fp16, `neck` has .* 2\.0e-03"):
        densevit.export(predictor, tmp_path / "model.pt2", half="fp16", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_the_command_writes_beside_the_model_and_shows_blocks_and_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """In --json and in the file's metadata. Nothing is overwritten."""
    import onnx

    densevit.save(small_predictor(CELLS, NAMES), tmp_path / "model.safetensors")
    given = ["export", str(tmp_path), "--half", "--postprocess", "--trust"]
    assert main([*given, "--json"]) == 0
    captured, out = capsys.readouterr(), tmp_path / "model-half.onnx"
    result, lines = json.loads(captured.out), [line for line in captured.err.splitlines() if ", step " in line]
    assert [line.partition(", ")[2].partition(":")[0] for line in lines] == [
        f"step {n} of {len(lines)}" for n in range(1, len(lines) + 1)
    ]
    assert len(lines) > 5 and result["file"] == str(out) and result["difference"] <= 1e-2
    assert result["limit"] == 1e-2 and result["classes"] == {"x": NAMES}
    assert {*result["blocks"][0]} == {"name", "error", "precision"} and len(result["blocks"]) <= 24
    properties = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert properties["classes/x"].split("\n") == NAMES
    header = json.loads(properties["densevit"])
    assert header["half"] == {"precision": "fp16", "limit": 1e-2, "blocks": result["blocks"]}
    assert [one["name"] for one in header["heads"]["x"]["classes"]] == NAMES
    assert header["postprocess"] == {"thresholds": {"x": 0.5}} and header["heads"]["x"]["nms"] is None
    assert main(given) == 2
    assert f"{out} exists" in capsys.readouterr().err


class Masked(torch.nn.Module):
    """Two layers; a mask of the values of the first, if any, is of booleans."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.first, self.last, self.masks = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.first(x).relu()).relu()
        return x.masked_fill(x > 1, 0) if self.masks else x.topk(2).values


@pytest.mark.parametrize("compares", [True, False])
def test_a_model_that_compares_values_may_differ_more(compares: bool):
    program = torch.export.export(Masked(compares), (torch.ones(2, 4),), strict=False)
    assert typed_graph.compares(program, typed_graph.heavy_layers(program)) == compares
    assert HalfPrecision("fp16", (), compares).limit == (4e-2 if compares else 1e-2)
