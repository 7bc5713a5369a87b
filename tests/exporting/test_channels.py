"""Files of models for other images than RGB of 8 bits: uint16 with four channels, float32 with two and NaN."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import densevit
from densevit.channels import Channels
from densevit.cli import main
from densevit.data.transforms.fixed import Fixed
from densevit.data.transforms.sample_resizing import resize_image
from densevit.exporting import files
from densevit.exporting.exported_resizing import Resizing
from densevit.exporting.file_comparison import example_images
from densevit.inference import runtimes
from tests.exporting.small_models import CELLS, CHANNELS, NAIVE, channel_predictor, evaluated_at

SIZES = [(64, 96), (200, 31), (128, 127)]


def images_of(channels: Channels, size: tuple[int, int], count: int = 1, seed: int = 0) -> np.ndarray:
    """(count, C, *size), uniform within the range, and a tenth of it below and above; a twentieth of floats is NaN."""
    rng = np.random.default_rng([seed, *size])
    low, high = np.array(channels.range).T[..., None, None]
    values = low + (high - low) * rng.uniform(-0.1, 1.1, (count, len(channels.names), *size))
    if channels.dtype == "float32":
        values[rng.random(values.shape) < 0.05] = np.nan
        return values.astype(np.float32)
    return values.clip(0, 65535).astype(channels.dtype)


def filled(images: np.ndarray, channels: Channels, mean: torch.Tensor) -> np.ndarray:
    """The images clipped to the range, with the channel's mean in place of NaN."""
    low, high = np.array(channels.range).T[..., None, None]
    clipped = images.astype(np.float64).clip(low, high)
    return np.where(np.isnan(clipped), mean.double().numpy(), clipped).astype(images.dtype)


def test_nan_is_left_out_and_infinity_is_a_large_value():
    """Halved, each pixel has weights 1, 3, 3 and 1 over eight."""
    row = torch.tensor([8.0, 8.0, 1.0, np.nan, 8.0, 8.0, 8.0, 8.0, 8.0, np.inf]).expand(1, 1, 2, 10)
    found = Resizing(Fixed((1, 5)))(row)[0, 0, 0]
    torch.testing.assert_close(found[:4], torch.tensor([7.0, (3 * 1 + 8 + 8) / 5, 8.0, 8.0]))
    assert found[4] > 1e37 and torch.isfinite(found[4])


@pytest.mark.integration
def test_files_leave_out_missing_pixels_as_predict_does(tmp_path: Path):
    """Of images with 2, 50 and 90 % missing pixels, in torch's program and in ONNX Runtime."""
    resizing, path = Resizing(Fixed(64)), tmp_path / "resizing.onnx"
    program = files._traced(resizing, [torch.zeros(13, 2, 421, 453)])
    files.converted(program, ["images"], ["resized"]).save(path)
    import onnxruntime  # late: not all tests of this file need it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for size in SIZES:
        for share in (0.02, 0.5, 0.9):
            images = rng.uniform(-50, 450, (2, 2, *size)).astype(np.float32)
            images[rng.random(images.shape) < share] = np.nan
            new_size = resizing.transforms.evaluation_size(*size)
            planes = [resize_image(np.ascontiguousarray(one.transpose(1, 2, 0)), new_size) for one in images]
            expected = np.stack(planes).transpose(0, 3, 1, 2)
            (of_onnx,) = session.run(None, {"images": images})
            for found in (of_onnx, program.module()(torch.from_numpy(images)).numpy()):
                differ = np.isnan(found) != np.isnan(expected)  # weights of the order of rounding
                assert differ.mean() < 0.001
                np.testing.assert_allclose(found[~differ], expected[~differ], rtol=0, atol=0.05)


def check_maps(found: Any, expected: Any, size: tuple[int, int]) -> None:
    """Of a file and of its model."""
    assert found["maps"].semantic.shape == size
    assert (found["maps"].semantic == expected["maps"].semantic).float().mean() > 0.97


@pytest.mark.integration
@pytest.mark.parametrize(("name", "suffix"), [("uint16", ".onnx"), ("float32", ".pt2")])
def test_a_file_gives_the_models_outputs_and_predictions(name: str, suffix: str, tmp_path: Path):
    """On sizes and batches other than the traced ones; values outside the range are clipped, and NaN is the mean."""
    channels, model = CHANNELS[name], channel_predictor(name, {"boxes": CELLS, "maps": NAIVE})
    predictor = evaluated_at(model, 96)
    exported = densevit.export(predictor, tmp_path / f"model{suffix}", quiet=True)
    assert exported.difference <= 1e-4
    file = runtimes.open_file(exported.path)
    assert file.header["images"] == json.loads(json.dumps(asdict(channels)))
    images = images_of(channels, (75, 107), 2)
    outputs, known = file.run(images), file.run(filled(images, channels, model.model.mean))
    assert outputs["maps/maps"].shape == (2, 2, 75, 107)
    for key, value in outputs.items():
        np.testing.assert_allclose(value, known[key], atol=2e-3 if key == "boxes/boxes" else 1e-4)
    expected = model.predict([torch.from_numpy(image) for image in images])
    semantic = np.stack([one["maps"].semantic.numpy() for one in expected])
    assert (outputs["maps/semantic"] == semantic).mean() > 0.999
    loaded = densevit.load(exported.path, trust=True)
    assert loaded.model.channels == channels
    for size in ((150, 211), (64, 50)):
        image = np.ascontiguousarray(images_of(channels, size, seed=1)[0].transpose(1, 2, 0))
        found, expected = (one.predict(image, threshold=0) for one in (evaluated_at(loaded, 96), predictor))
        check_maps(found, expected, size)
        np.testing.assert_allclose(found["boxes"].scores[:1], expected["boxes"].scores[:1], atol=2e-3)


@pytest.mark.integration
@pytest.mark.parametrize(("name", "options"), [("uint16", {"half": "fp16"}), ("float32", {"int8": 3})])
def test_files_of_other_precisions(name: str, options: dict[str, Any], tmp_path: Path):
    channels, predictor = CHANNELS[name], evaluated_at(channel_predictor(name, {"maps": NAIVE}), 96)
    images = [torch.from_numpy(images_of(channels, (70, 96), seed=i)[0]) for i in range(3)]
    given = {"int8": images} if "int8" in options else options
    exported = densevit.export(predictor, tmp_path / "model.onnx", quiet=True, **given)
    run = runtimes.load(exported.path)
    logits, expected = run(images[0][None].numpy())["maps"], predictor.predict(images[0])["semantic"].numpy()
    assert (logits[0].argmax(0) == expected).mean() > 0.9
    assert (exported.quantization is None) == ("int8" not in options)


SIZE = (150, 211)


def write_tiff(path: Path, name: str) -> None:
    """Writes an image of SIZE in which pixels without data have the value `nodata`."""
    channels = CHANNELS[name]
    values = images_of(channels, SIZE)[0].transpose(1, 2, 0)
    stored = values if channels.nodata is None else np.where(np.isnan(values), np.float32(channels.nodata), values)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, stored, planarconfig="contig")


@pytest.mark.integration
@pytest.mark.parametrize("name", CHANNELS)
def test_a_file_that_resizes_predicts_and_evaluates_tiff_files(name: str, tmp_path: Path):
    """With post-processing inside, in Python and by `densevit predict`, also of pixels without data."""
    predictor, channels = evaluated_at(channel_predictor(name, {"maps": NAIVE}), 96), CHANNELS[name]
    exported = densevit.export(predictor, tmp_path / "model.onnx", quiet=True, resize=True, postprocess=True)
    assert exported.difference <= 1e-4
    labels = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 7 % 2).astype(np.uint8)
    for split in ("train", "val"):
        write_tiff(tmp_path / f"images/{split}/one.tif", name)
        (tmp_path / f"labels/{split}").mkdir(parents=True)
        Image.fromarray(labels).save(tmp_path / f"labels/{split}/one.png")
    image, loaded = tmp_path / "images/val/one.tif", densevit.load(exported.path, trust=True)
    check_maps({"maps": loaded.predict(image)}, {"maps": predictor.predict(image)}, SIZE)
    arguments = ["predict", str(exported.path), str(image), "--out", str(tmp_path / "out"), "--quiet", "--trust"]
    assert main(arguments) == 0
    assert (tmp_path / "out/drawn/one.jpg").is_file()
    data: dict[str, Any] = {"name": "label_maps", "root": str(tmp_path), "classes": ["a", "b"], "num_workers": 0}
    data |= {"channels": channels.names, "range": channels.range, "nodata": channels.nodata}
    of_file, of_model = (densevit.evaluate(one, data) for one in (loaded, predictor))
    assert of_file.keys() == of_model.keys() and "maps/mIoU" in of_file
    assert of_file["maps/mIoU"] == pytest.approx(of_model["maps/mIoU"], abs=0.02)


def test_example_images_exceed_the_range_and_have_nan():
    for channels in CHANNELS.values():
        images = example_images((75, 107), 2, 0, channels).astype(float)
        low, high = np.array(channels.range).T[..., None, None]
        assert ((images > high) | (high == 65535)).any((0, 2, 3)).all()
        assert ((images < low) | (low == 0)).any((0, 2, 3)).all()
        assert np.isnan(images).any() == (channels.dtype == "float32")
    rgb = example_images((75, 107), 2, 0)
    assert rgb.dtype == np.uint8 and np.array_equal(rgb, example_images((75, 107), 2, 0, Channels()))
