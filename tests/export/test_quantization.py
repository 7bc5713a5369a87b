"""Int8 files: quantised layers, calibration, and the comparison with the float32 file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import densevit
from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError
from densevit.evaluation.recorded import RecordedEvaluation
from densevit.model import DenseModel
from densevit_export import quantization
from densevit_export.file_comparison import example_images
from densevit_export.graph import ExportedGraph
from densevit_export.quantization import Quantization, calibration_images, checked, quantize
from densevit_export.runtimes import load, open_file


@pytest.fixture
def onnx() -> None:
    """Skips a test where the packages are not installed, and imports them no earlier: they take a second."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


def predictor_of() -> DenseModel:
    backbone = {"name": "vit", "variant": "tiny", "features": [1]}
    predictor = densevit.create_model(backbone, {"x": {"name": "setr", "decoder": "naive"}}, ["a", "b", "c"])
    return predictor.with_resize(DefaultTransforms(96))


def images_of(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    return [torch.from_numpy(example_images(size, 1, 0)[0]) for size in sizes]


def write_layers(path: Path, features: int = 48) -> None:
    """A file with a convolution, a linear layer and a product of two activations, as in attention."""
    import onnx

    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 20]>
        layers (uint8[B, 3, H, W] images) => (float[B, {features}, {features}] product)
        <float scale = {{0.00392157}}, int64[3] shape = {{0, {features}, -1}}> {{
            pixels = Cast <to = 1> (images)
            scaled = Mul (pixels, scale)
            map = Conv <pads = [1, 1, 1, 1]> (scaled, kernel)
            rows = Reshape (map, shape)
            tokens = Transpose <perm = [0, 2, 1]> (rows)
            queries = MatMul (tokens, linear)
            product = MatMul (rows, queries)
        }}""")
    for node in model.graph.node:
        node.name = f"{node.op_type}/{node.output[0]}"
    rng = np.random.default_rng(0)
    for name, shape in (("kernel", (features, 3, 3, 3)), ("linear", (features, features))):
        values = (rng.normal(size=shape) * 0.2).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)


def sources_of(path: Path) -> dict[str, list[str | None]]:
    """By the name of a node, the operators that compute its inputs; None: none."""
    import onnx

    graph = onnx.load(path).graph
    made_by = {out: node.op_type for node in graph.node for out in node.output}
    return {node.name: [made_by.get(name) for name in node.input] for node in graph.node if node.name}


def constants_of(path: Path) -> dict[str, np.ndarray]:
    import onnx

    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


@pytest.mark.usefixtures("onnx")
def test_layers_with_weights_are_quantised_and_products_of_activations_are_not(tmp_path: Path):
    write_layers(tmp_path / "x.onnx")
    expected, largest = load(tmp_path / "x.onnx"), np.abs(constants_of(tmp_path / "x.onnx")["kernel"]).max((1, 2, 3))
    images = [example_images((16, 24), 1, i) for i in range(4)]
    done = quantize(tmp_path / "x.onnx", iter(images), images[0], {})
    assert done.images == 4 and done.float32_ms > 0 and done.int8_ms > 0

    sources = sources_of(tmp_path / "x.onnx")
    assert sources["Conv/map"][:2] == sources["MatMul/queries"] == ["DequantizeLinear"] * 2
    assert sources["MatMul/product"] == ["Reshape", "MatMul"]
    weights = [one for one in constants_of(tmp_path / "x.onnx").values() if one.dtype == np.int8 and one.ndim > 1]
    assert sorted(one.shape for one in weights) == [(48, 3, 3, 3), (48, 48)]
    constants = constants_of(tmp_path / "x.onnx")
    np.testing.assert_allclose(constants["kernel_scale"], largest / 64, rtol=0.01)  # one for each output channel
    # Of 7 bits, so that no sum of two products with uint8 saturates in int16, as on CPUs without VNNI.
    assert max(np.abs(one.astype(int)).max() for one in weights) == 64 and 2 * 64 * 255 < 2**15 <= 2 * 65 * 255
    assert all(constants[f"{name}_zero_point"].dtype == np.uint8 for name in ("scaled", "tokens"))
    assert not any(constants[f"{name}_zero_point"].any() for name in ("kernel", "linear"))

    run = load(tmp_path / "x.onnx")
    for size in [(16, 24), (33, 7)]:  # any size
        image = example_images(size, 1, 9)
        want, found = expected(image)["product"], run(image)["product"]
        assert np.abs(found - want).mean() < 0.025 * np.abs(want).mean()  # of weights from -64 to 64
        assert not np.array_equal(found, want)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latencies in float32 and in int8 are 20 and 10 ms."""
    monkeypatch.setattr(quantization, "median_latencies", lambda calls, rounds: [20.0, 10.0])


@pytest.mark.integration
@pytest.mark.usefixtures("onnx", "fast")
def test_a_model_is_exported_in_int8_with_its_comparison(tmp_path: Path):
    predictor = predictor_of()
    metrics = iter([{"x/mIoU": 0.5}, {"x/mIoU": 0.48}])
    given = {"int8": images_of([(60, 80), (90, 40)]), "evaluate": lambda _: next(metrics), "data": "scenes-val"}
    with pytest.warns(UserWarning, match=r"model\.onnx: int8 loses more than 0\.01: x/mIoU is 0\.480 instead of 0\.5"):
        exported = densevit.export(predictor, tmp_path / "model.onnx", **given)
    done = exported.quantization
    assert done is not None and done.images == 2 and done.int8_bytes < 0.3 * done.float32_bytes
    assert (exported.file_ms, done.float32_ms, done.int8_ms) == (10, 20, 10)
    assert exported.difference <= 1e-4  # of the float32 file

    file = open_file(tmp_path / "model.onnx")
    assert file.header["int8"] == json.loads(json.dumps(done.as_json()))
    assert file.header["int8"]["warnings"] == ["int8 loses more than 0.01: x/mIoU is 0.480 instead of 0.500."]
    assert file.header["evaluation"] == {"model": {"x/mIoU": 0.5}, "file": {"x/mIoU": 0.48}, "data": "scenes-val"}
    image = example_images((75, 107), 1, 3)
    maps = torch.from_numpy(file.run(image)["maps"])
    with torch.no_grad():
        expected = ExportedGraph(predictor.eval())(torch.from_numpy(image))["maps"]
    assert 0 < (maps - expected).abs().mean() < 0.1 * expected.std()


def test_calibration_images_are_resized_as_for_evaluation_unless_the_file_does():
    predictor, images = predictor_of(), images_of([(60, 80), (90, 40)])
    resized = [one.shape for one in calibration_images(predictor, images, resize=False)]
    assert resized == [(1, 3, 72, 96), (1, 3, 96, 43)]
    for one, image in zip(calibration_images(predictor, images, resize=True), images, strict=True):
        assert one.dtype == np.uint8 and np.array_equal(one[0], image.numpy())


def test_a_calibration_image_larger_than_the_size_of_the_backbone_is_an_error():
    predictor = predictor_of()
    predictor.backbone.input_size = (72, 96)
    assert len([*calibration_images(predictor, images_of([(60, 80), (30, 90)]), resize=False)]) == 2
    with pytest.raises(ConfigError, match="image 0 has 96x43 pixels .* at most 72x96. Fix: pass windows of images"):
        next(calibration_images(predictor, images_of([(90, 40)]), resize=False))


@pytest.mark.parametrize(
    ("model", "file", "main", "lost"),
    [
        ({"x/AP": 0.5, "x/AP50": 0.7}, {"x/AP": 0.4901, "x/AP50": 0.1}, {"x/AP": False}, []),
        ({"x/AP": 0.5, "x/AP50": 0.7}, {"x/AP": 0.4899, "x/AP50": 0.7}, {"x/AP": False}, ["x/AP"]),
        ({"x/AP": 0.5, "y/mIoU": 0.5}, {"x/AP": 0.4, "y/mIoU": 0.3}, None, ["x/AP", "y/mIoU"]),
    ],
)
def test_a_loss_of_a_main_metric_is_a_warning_and_no_gain_of_speed(
    model: dict[str, float], file: dict[str, float], main: dict[str, bool] | None, lost: list[str]
):
    evaluation = RecordedEvaluation(model, file, None)
    values = ", ".join(f"{name} is {file[name]:.3f} instead of {model[name]:.3f}" for name in lost)
    expected = (f"int8 loses more than 0.01: {values}.",) if lost else ()
    assert checked(Quantization(2, 20, 19.9, 400, 100), evaluation, main).warnings == expected
    [slow] = checked(Quantization(2, 20, 20.0, 400, 100), None, main).warnings
    assert "no faster than float32 on this CPU, 20.0 ms and 20.0 ms" in slow
