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
from densevit.errors import ConfigError, DensevitError
from densevit.exporting import comparison, exporting, files, half_precision, typed_graph
from densevit.exporting.deployment import deployable
from densevit.exporting.graph import ExportedGraph
from densevit.exporting.half_precision import Block, HalfPrecision
from densevit.inference.predictor import Predictor
from tests.exporting.test_exporting import predictor_of

pytestmark = pytest.mark.integration

TRACED, SIZE = (97, 130), (75, 107)
HEADS = [("resnet", "detr"), ("vit", "setr"), ("vit", "dpt")]


def graph_of(predictor: Predictor) -> ExportedGraph:
    return ExportedGraph(deployable(predictor.model.eval())).eval()


def written(graph: ExportedGraph, path: Path, half: Any) -> HalfPrecision:
    """Writes a file in half precision without the checks of `export`."""
    precision = half_precision.measured(graph, TRACED, half)
    files.write(graph, path, TRACED, {}, rewrite=precision.set_types)
    return precision


def errors_of(graph: ExportedGraph, path: Path) -> dict[str, float]:
    images = comparison.example_images(SIZE, 2, 1)
    return comparison.differences(graph, files.load(path), images)


def types_of(path: Path) -> tuple[Any, dict[str, int]]:
    """The graph of an ONNX file, and the types of its values by name."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return model.graph, types | {one.name: one.data_type for one in model.graph.initializer}


@pytest.mark.parametrize(("backbone", "head"), HEADS)
def test_heavy_layers_are_in_half_precision_and_others_in_float32(backbone: str, head: str, tmp_path: Path):
    import onnx

    graph, path = graph_of(predictor_of(backbone, head)), tmp_path / "model.onnx"
    written(graph, path, "fp16")
    found = files.load(path)(comparison.example_images(SIZE, 2, 1))
    assert {value.dtype for value in found.values()} <= {np.dtype("float32"), np.dtype("uint8")}
    errors = errors_of(graph, path)
    assert 0 < max(errors.values()) < 5e-3
    onnx_graph, types = types_of(path)
    float16, float32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    inputs: dict[str, list[int]] = {}
    for node in onnx_graph.node:
        inputs.setdefault(node.op_type, []).append(types[node.input[0]])
    heavy = [kind for name in ("Conv", "ConvTranspose", "MatMul", "Gemm") for kind in inputs.get(name, [])]
    assert heavy.count(float16) > 0.8 * len(heavy)
    for name in ("Softmax", "LayerNormalization", "Resize", "Sigmoid", "Gelu", "Erf"):
        assert {*inputs.get(name, [])} <= {float32}, name
    assert {"Softmax", "LayerNormalization"} <= {*inputs}
    weights = {kind: 0 for kind in (float16, float32)}
    for one in onnx_graph.initializer:
        weights[one.data_type] = weights.get(one.data_type, 0) + math.prod(one.dims)
    assert weights[float16] > 0.8 * (weights[float16] + weights[float32])


@pytest.mark.parametrize(("backbone", "head", "half"), [("vit", "setr", "fp16"), ("resnet", "one-stage", "bf16")])
def test_pt2_files_have_types(backbone: str, head: str, half: Any, tmp_path: Path):
    graph, path = graph_of(predictor_of(backbone, head)), tmp_path / "model.pt2"
    written(graph, path, half)
    assert 0 < max(errors_of(graph, path).values()) < half_precision.LIMITS[half]
    stored = torch.export.load(path).state_dict.values()
    numbers = {kind: sum(one.numel() for one in stored if one.dtype == kind) for kind in {one.dtype for one in stored}}
    assert numbers[half_precision._TYPES[half]] > 0.8 * sum(numbers.values())
    assert path.stat().st_size < 3 * sum(numbers.values()) + 2**21  # bytes; the nodes are 1 to 2 MB


def overflowing() -> Predictor:
    """A model with a feed-forward network whose hidden values are about 1e6, above the range of fp16."""
    predictor = predictor_of("vit", "setr")
    mlp: Any = predictor.backbone.get_submodule("blocks.2.mlp")
    with torch.no_grad():
        for tensor in (mlp.expand.weight, mlp.expand.bias):
            tensor *= 1e6
        mlp.contract.weight /= 1e6
    return predictor


def test_a_block_that_overflows_stays_in_float32(tmp_path: Path):
    graph, path, wrong = graph_of(overflowing()), tmp_path / "model.onnx", tmp_path / "wrong.pt2"
    precision = written(graph, path, "fp16")
    infinite = [block.name for block in precision.blocks if not math.isfinite(block.error)]
    assert infinite == [block.name for block in precision.blocks if block.precision == "fp32"]
    assert infinite and all(name.startswith("backbone.blocks.2.mlp") for name in infinite)
    assert max(errors_of(graph, path).values()) < 5e-3
    everywhere = HalfPrecision("fp16", [replace(block, precision="fp16") for block in precision.blocks])
    files.write(graph, wrong, TRACED, {}, rewrite=everywhere.set_types)
    assert max(errors_of(graph, wrong).values()) == math.inf


def test_a_wrong_file_is_an_error_with_the_worst_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = [Block("stem", 1e-3, "fp16"), Block("neck", 2e-3, "fp16"), Block("stage", math.inf, "fp32")]

    def load(path: Path) -> Any:
        return lambda images: {k: v.numpy() + 0.02 for k, v in graph(torch.from_numpy(images)).items()}

    graph = graph_of(predictor_of("resnet", "one-stage"))
    monkeypatch.setattr(exporting, "measured", lambda *_: HalfPrecision("fp16", blocks))
    monkeypatch.setattr(files, "write", lambda graph, path, *_: path.write_text("a file"))
    monkeypatch.setattr(files, "load", load)
    with (
        torch.no_grad(),
        pytest.raises(DensevitError, match=r"`scores` differs .* 1e-02 .*fp16, `neck` has .* 2\.0e-03"),
    ):
        densevit.export(predictor_of("resnet", "one-stage"), tmp_path / "model.pt2", half="fp16", quiet=True)
    assert not list(tmp_path.iterdir())


def test_blocks_are_few_and_contain_all_layers():
    layers = [f"backbone.stages.{i}.{j}.{part}" for i in range(4) for j in range(9) for part in "ab"]
    blocks = half_precision._blocks([*layers, "backbone.stem", "heads.x", "heads.x.box"])
    assert len(blocks) <= half_precision._MAX_BLOCKS and {"backbone.stem", "heads.x"} <= {*blocks}
    assert all(any(f"{layer}.".startswith(f"{name}.") for name in blocks) for layer in layers)
    assert half_precision._blocks(["a.b", "a.c", "a"]) == ["a"]


def test_the_command_shows_the_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    predictor = densevit.create_model({"name": "resnet", "depth": 18}, {"x": {"name": "setr"}}, ["a", "b"])
    densevit.save(predictor, tmp_path / "model.safetensors")
    out = tmp_path / "model.onnx"
    given = ["export", str(tmp_path / "model.safetensors"), "--half", "--out", str(out), "--quiet", "--json"]
    assert main(given) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["limit"] == 1e-2
    assert {*result["blocks"][0]} == {"name", "error", "precision"} and len(result["blocks"]) <= 24
    from densevit.inference.runtimes import open_file

    half = open_file(out).header["half"]
    assert half == {"precision": "fp16", "limit": 1e-2, "blocks": result["blocks"]}


def test_bf16_is_for_pt2_files(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"ONNX Runtime cannot run .* in bf16"):
        densevit.export(predictor_of("resnet", "setr"), tmp_path / "model.onnx", half="bf16")
    with pytest.raises(ConfigError, match="half is 'int4'; expected one of fp16, bf16"):
        densevit.export(predictor_of("resnet", "setr"), tmp_path / "model.onnx", half="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(("head", "compares"), [("mask2former", True), ("one-stage", False), ("detr-two-stage", False)])
def test_a_model_that_compares_values_may_differ_more(head: str, compares: bool):
    program = files.traced(graph_of(predictor_of("resnet", head)), TRACED)
    assert typed_graph.compares(program, typed_graph.heavy_layers(program)) == compares
    assert HalfPrecision("fp16", (), compares).limit == (4e-2 if compares else 1e-2)
