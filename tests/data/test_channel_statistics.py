"""Statistics of channels against numpy on the whole images, and what they refuse."""

import numpy as np
import pytest
import torch

from densevit.channels import Channels
from densevit.config import Config
from densevit.data.channel_statistics import measured, statistics_of, with_channels
from densevit.errors import DataError
from densevit.interfaces import Sample
from tests.counted_dataset import CountedDataset

NAMES = ("red", "nir")


class Noise(CountedDataset):
    """Two channels of 16 bits."""

    length = 40

    def __init__(self, range: tuple[tuple[float, float], ...] = ()) -> None:
        self.classes, self.provides, self.channels = {}, (), Channels(NAMES, "uint16", range)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        pixels = rng.normal(((3000,), (800,)), ((500,), (100,)), (2, 90 * 120)).clip(0, 65535).astype(np.uint16)
        return {"image": torch.from_numpy(pixels).reshape(2, 90, 120), "targets": {"image_id": index}}


def test_mean_and_deviation_are_those_of_the_scaled_values():
    """A range that is not given is that of percentiles."""
    dataset = Noise(((2000.0, 4000.0), (0.0, 1000.0)))
    found = measured(dataset)
    assert found.channels == dataset.channels
    pixels = np.concatenate([dataset[i]["image"].numpy().reshape(2, -1) for i in range(40)], axis=1).astype(float)
    for plane, (low, high), mean, std in zip(pixels, dataset.channels.range, found.mean, found.std, strict=True):
        scaled = ((plane - low) / (high - low)).clip(0, 1)
        assert (mean, std) == (pytest.approx(scaled.mean(), abs=1e-3), pytest.approx(scaled.std(), abs=1e-3))
    assert np.allclose(measured(Noise()).channels.range, np.percentile(pixels, (0.1, 99.9), axis=1).T, rtol=0.01)


def test_a_backbone_gets_the_channels_of_images_that_are_not_rgb_unless_its_section_has_them():
    dataset = Noise(((2000.0, 4000.0), (0.0, 1000.0)))
    sections = {"backbone": {"name": "swin", "std": [0.5, 1.0]}, "heads": {}, "data": {"name": "x"}}
    config = Config.model_validate({**sections, "trainer": {"max_steps": 1}})
    backbone = with_channels(config, dataset).backbone
    assert (backbone.channels, backbone.std, backbone.mean) == (dataset.channels, (0.5, 1.0), measured(dataset).mean)
    again = with_channels(config, dataset)
    assert with_channels(again, Noise()) is again
    dataset.channels = Channels()
    assert with_channels(config, dataset) is config


@pytest.mark.parametrize(
    ("values", "range", "message"),
    (
        ([[0, 1, 2], [7, 7, 7]], (), "'nir' has only the value 7"),
        ([[0, 1, 2], [np.nan] * 3], (), "'nir' has no data"),
        ([[200, 300], [1, 2]], ((0.0, 100.0), (0.0, 5.0)), r"0 \.\.\. 100 clips all values of the channel 'red'"),
    ),
)
def test_channels_from_which_nothing_is_learned_are_refused(values, range, message):
    with pytest.raises(DataError, match=message):
        statistics_of(np.array(values, np.float32), Channels(NAMES, "float32", range), "fields")


def test_statistics_leave_out_pixels_without_data():
    values = np.array([[1, 2, np.nan, 3], [5, np.nan, 6, 9]], np.float32)
    found = statistics_of(values, Channels(NAMES, "float32", ((1.0, 3.0), (5.0, 9.0))), "fields")
    assert found.mean == (0.5, pytest.approx((0 + 0.25 + 1) / 3, abs=1e-6))
