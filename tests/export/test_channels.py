"""Files of models for other images than RGB of 8 bits: uint16 with four channels, float32 with two and NaN."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.channels import Channels
from densevit.data.transforms.default import DefaultTransforms
from densevit_export import runtimes
from tests.small_models import CELLS, CHANNELS, NAIVE, channel_predictor


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


def check_maps(found: Any, expected: Any, size: tuple[int, int]) -> None:
    """Of a file and of its model."""
    assert found["maps"].semantic.shape == size
    assert (found["maps"].semantic == expected["maps"].semantic).float().mean() > 0.97


@pytest.mark.integration
@pytest.mark.parametrize(("name", "suffix"), [("uint16", ".onnx"), ("float32", ".pt2")])
def test_a_file_gives_the_models_outputs_and_predictions(name: str, suffix: str, tmp_path: Path):
    """On sizes and batches other than the traced ones; values outside the range are clipped, and NaN is the mean."""
    channels, model = CHANNELS[name], channel_predictor(name, {"boxes": CELLS, "maps": NAIVE})
    predictor = model.with_resize(DefaultTransforms(96))
    exported = densevit.export(predictor, tmp_path / f"model{suffix}", quiet=True)
    assert exported.difference <= 1e-4
    file = runtimes.open_file(exported.path, trust=True)
    assert file.header["images"] == json.loads(json.dumps(asdict(channels)))
    images = images_of(channels, (75, 107), 2)
    outputs, known = file.run(images), file.run(filled(images, channels, model.mean))
    assert outputs["maps/maps"].shape == (2, 2, 75, 107)
    for key, value in outputs.items():
        np.testing.assert_allclose(value, known[key], atol=2e-3 if key == "boxes/boxes" else 1e-4)
    expected = model.predict([torch.from_numpy(image) for image in images])
    semantic = np.stack([one["maps"].semantic.numpy() for one in expected])
    assert (outputs["maps/semantic"] == semantic).mean() > 0.999
    loaded = densevit.load(exported.path, trust=True)
    assert loaded.channels == channels
    for size in ((150, 211), (64, 50)):
        image = np.ascontiguousarray(images_of(channels, size, seed=1)[0].transpose(1, 2, 0))
        found, expected = (
            one.predict(image, threshold=0) for one in (loaded.with_resize(DefaultTransforms(96)), predictor)
        )
        check_maps(found, expected, size)
        np.testing.assert_allclose(found["boxes"].scores[:1], expected["boxes"].scores[:1], atol=2e-3)
