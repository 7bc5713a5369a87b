"""Files of one image size compute what the model does for images up to this size.

The slow tests need litert-torch or executorch, each in an environment of its own: docs/development/export.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.model import DenseModel
from densevit_export import canvas_files, file_comparison, litert, runtimes
from densevit_export.graph import ExportedGraph
from densevit_export.header import append_entry
from densevit_export.resized_parameters import with_resized_parameters

CANVAS = (64, 96)
RESNET: dict[str, Any] = {"name": "resnet", "depth": 18}
TWO_STAGE: dict[str, Any] = {
    "name": "dfine",
    "num_queries": 5,
    "encoder": {"width": 32, "feedforward": 32, "expansion": 0.5},
    "fusion_blocks": 1,
    "transformer": {"width": 32, "num_heads": 2, "decoder_layers": 2, "feedforward": 32},
}


VIT: dict[str, Any] = {"name": "vit", "variant": "tiny"}


def model_of(*heads: Any, backbone: dict[str, Any] = RESNET) -> DenseModel:
    named = {f"head{i}": head for i, head in enumerate(heads)}
    classes = {name: ["cat", "dog"] for name, head in named.items() if head != "dpt"}
    return densevit.create_model(backbone, named, classes)


def test_images_smaller_than_the_canvas_have_the_outputs_of_the_graph(tmp_path: Path):
    graph = ExportedGraph(model_of(TWO_STAGE, "linear"), CANVAS).eval()
    module = canvas_files.CanvasGraph(graph).eval()

    @torch.no_grad()
    def compute(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: x.numpy() for name, x in module(*map(torch.from_numpy, inputs.values())).items()}

    append_entry(tmp_path / "x.tflite", runtimes.HEADER_FILE, {})
    run = runtimes._on_canvas(tmp_path / "x.tflite", compute, CANVAS).run
    for size in (CANVAS, (64, 50), (33, 96), (41, 77)):
        images = file_comparison.example_images(size, 2, 0)
        with torch.no_grad():
            expected = graph(torch.from_numpy(images))
        outputs = run(images)
        assert {*outputs} - {*expected} == {"head0/selection_0", "head0/selection_scores_0"}
        for name, want in expected.items():
            torch.testing.assert_close(torch.from_numpy(outputs[name]), want, rtol=1e-4, atol=1e-4, msg=name)
    with pytest.raises(densevit.DensevitError, match=r"at most 64x96 pixels; this one has 64x97\. Fix: .*--canvas"):
        run(file_comparison.example_images((64, 97), 1, 0))


class Simplified(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        both = y.topk(2, dim=1)
        nearest = F.interpolate(x[None, None], size=(2, 7))
        best = x.topk(3, dim=0).values
        return {"sum": x.sub(y, alpha=0.5), "best": best, "both": both.values + both.indices, "nearest": nearest}


def test_operations_that_litert_does_not_convert_are_replaced_by_equal_ones():
    x, y = torch.randn(2, 5, 4).unbind()
    program = torch.export.export(Simplified(), (x, y))
    litert.simplify(program)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.aten.gather.default) == 1
    assert torch.ops.aten.upsample_nearest2d.vec not in targets
    assert not any("alpha" in node.kwargs for node in program.graph.nodes)
    for name, value in program.module()(x, y).items():
        torch.testing.assert_close(value, Simplified()(x, y)[name], rtol=0, atol=0)


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 16, 2))

    def forward(self, x: Tensor) -> Tensor:
        table = self.table[:, 1:].reshape(1, 3, 5, 2).permute(0, 3, 1, 2)
        positions = F.interpolate(table, size=(4, 7), mode="bicubic", antialias=True)
        return F.interpolate(x, size=(4, 7)) * F.interpolate(positions, scale_factor=1.0, mode="bilinear")


def test_resized_parameters_become_constants():
    model, x = Positions().eval(), torch.randn(1, 2, 3, 5)
    module = with_resized_parameters(torch.export.export(model, (x,)).module())
    resizing = [node for node in module.graph.nodes if "upsample" in str(node.target)]
    assert len(resizing) == 1  # of x
    torch.testing.assert_close(module(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(("suffix", "package"), [("tflite", "litert-torch"), ("pte", "executorch")])
def test_a_missing_package_is_named(suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, package.replace("-", "_"), None)
    with pytest.raises(densevit.DensevitError, match=rf"x\.{suffix}: .* Fix: pip install {package}"):
        densevit.export(model_of("linear"), tmp_path / f"x.{suffix}", canvas=CANVAS)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.002, 0.001, 0.002], {}),  # all together below the limit
        ([0.001, 0.03, 0.001, 0.001, 0.001], {1: 0.03}),
        ([0.02, 0.001, 0.001, 0.003, 0.04], {0: 0.02, 3: 0.003, 4: 0.04}),
        ([float("inf")], {0: float("inf")}),
    ],
)
def test_layers_with_large_errors_stay_in_float32(errors: list[float], expected: dict[int, float]):
    calls = list[Sequence[int]]()

    def error(layers: Sequence[int]) -> float:
        calls.append(layers)
        return sum(errors[i] for i in layers)

    assert litert.float32_layers(range(len(errors)), error, 0.005, 0.002) == expected
    assert len(calls) <= 2 * len(errors)


def test_layers_are_named_by_their_modules():
    activation, conv = (f"a.Graph/b.Dense_model/c.Net_backbone/d.{part};" for part in ("ReLU6_bn1", "Conv2d_conv_dw"))
    scopes = {f"{activation};{conv};": "backbone.conv_dw", f"{conv}2;": "backbone.conv_dw", "jit/dot;": "jit/dot;"}
    assert {scope: litert.module_name(scope) for scope in scopes} == scopes


@pytest.mark.slow
def test_weights_beyond_fp16_stay_in_float32(tmp_path: Path):
    pytest.importorskip("litert_torch")
    model = model_of("linear")
    with torch.no_grad():
        (weight,) = [x for x in model.heads["head0"].parameters() if x.ndim == 4]
        weight *= 1e8
    exported = densevit.export(model, tmp_path / "x.tflite", canvas=CANVAS, half="fp16")
    assert [block.precision for block in exported.blocks] == ["fp32"]
    assert exported.difference < 1e-2
    assert densevit.load(tmp_path / "x.tflite").file.header["half"]["blocks"][0]["error"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "head", "path"),
    [
        (RESNET, TWO_STAGE, "x.tflite"),
        (RESNET, "dpt", "x-half.tflite"),
        (VIT, "linear", "x.tflite"),
        (RESNET, TWO_STAGE, "x.pte"),
        (VIT, "setr", "x.pte"),
    ],
)
def test_a_file_predicts_as_its_model(backbone: dict[str, Any], head: Any, path: str, tmp_path: Path):
    pytest.importorskip("executorch" if path.endswith("pte") else "litert_torch")
    model, half = model_of(head, backbone=backbone), "half" in path
    exported = densevit.export(model, tmp_path / path, canvas=CANVAS, half="fp16" if half else None)
    assert exported.difference < (1e-2 if half else 1e-4)
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    found, wanted = (m.predict(image, threshold=0) for m in (densevit.load(tmp_path / path), model))
    for key, value in wanted.predictions["head0"].items():
        torch.testing.assert_close(found.predictions["head0"][key], value, rtol=1e-2 if half else 1e-3, atol=1e-2)
