"""The self-test by noise: probes that read features pass, one that reads something else does not."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densevit.errors import ConfigError
from densevit_probes.noise import falls_with_noise, noised


def batch(count: int, seed: int):
    """Images of 64 x 96 pixels with squares of four classes, each of which is a colour, with some noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=(count, 8, 12)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [150, 150, 150]])
    pixels = np.clip(colours[labels] + rng.normal(0, 10, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    targets = [{"image_id": i, "size": (64, 96), "semantic": torch.from_numpy(x)} for i, x in enumerate(labels)]
    return {"images": images, "padding_mask": torch.zeros(count, 64, 96, dtype=torch.bool), "targets": targets}


def encode(images):
    """Mean colours of patches of 8 x 8 pixels, and of their quarters."""
    x = images.float() / 255
    return [torch.cat([F.avg_pool2d(x, 8), F.pixel_unshuffle(F.avg_pool2d(x, 4), 2)], 1)]


def deviation(reads):
    """Grows with noise."""
    return float(reads(batch(1, 0)["images"])[0].std())


def test_noise_has_the_strength_and_depends_on_the_pixels_alone():
    data = batch(3, 0)["images"]
    [x], [y] = encode(data), noised(encode, 0.5)(data)
    ratios = (y - x).std((2, 3)) / x.std((2, 3))
    assert ratios.shape == (3, 15) and float(ratios.mean()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(noised(encode, 0.5)(data[1:2])[0][0], y[1])
    other = data.roll(8, 3)
    noises = [
        (z - w) / w.std((2, 3), keepdim=True) for z, w in ((y, x), (noised(encode, 0.5)(other)[0], encode(other)[0]))
    ]
    assert abs(float((noises[0] * noises[1]).mean())) < 0.01  # 0.25 for equal noise
    assert not torch.equal(noised(encode, 0.5, seed=1)(data)[0], y)
    assert torch.equal(noised(encode, 0.0)(data)[0], x)


@pytest.mark.parametrize(
    ("scores", "lower_is_better", "falls"),
    [
        ({0: 0.5, 1: 0.4, 2: 0.1}, False, True),
        ({2: 0.1, 0: 0.5, 1: 0.4}, False, True),
        ({0: 0.5, 1: 0.4, 2: 0.1}, True, False),
        ({0: 10.0, 1: 12.0, 2: 30.0}, True, True),
        ({0: 0.5, 1: 0.4, 2: 0.4}, False, True),
        ({0: 0.5, 1: 0.5}, False, False),
        ({0: 0.5, 1: float("nan"), 2: 0.4}, False, False),
        ({0: 0.5, 1: 0.1, 2: 0.2}, False, False),
        ({0: 0.5, 1: float("nan")}, False, False),
    ],
)
def test_scores_fall_in_the_order_of_strengths(scores, lower_is_better, falls):
    assert falls_with_noise(scores, lower_is_better) is falls


def test_a_single_strength_is_an_error():
    with pytest.raises(ConfigError, match="1 strengths.*at least 2"):
        falls_with_noise({0: 0.5})
