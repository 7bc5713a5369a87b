"""Heads with a largest depth compare it with the depth of training images."""

import inspect
import warnings

import pytest
import torch

from densevit import registry
from densevit.errors import ConfigError, DataError
from densevit.interfaces import Sample
from tests.counted_dataset import CountedDataset

HEADS = [
    name
    for name in registry.find("heads")
    if {"max_depth", "min_depth"} <= inspect.signature(registry.load("heads", name)).parameters.keys()
]


assert len(HEADS) > 1


class Depths(CountedDataset):
    """Images of 4 x 4 pixels; depths: of each image's upper half, in metres. The lower half is unknown."""

    def __init__(self, depths: list[float]) -> None:
        self.depths, self.length, self.classes, self.provides = depths, len(depths), {}, ("depth",)

    def __getitem__(self, index: int) -> Sample:
        if self.depths[index] < 0:
            raise DataError("damaged")
        depth = torch.zeros(4, 4)
        depth[:2] = self.depths[index]
        return {"image": torch.zeros(3, 4, 4, dtype=torch.uint8), "targets": {"image_id": index, "depth": depth}}


def head(name: str, **options: object) -> object:
    kind = registry.load("heads", name)
    if "output" in inspect.signature(kind).parameters:
        options = {"output": "sigmoid", **options}
    return kind([8, 16, 32, 64], [4, 8, 16, 32], (), **options)


@pytest.mark.parametrize("name", HEADS)
def test_a_median_beyond_the_largest_depth_is_an_error(name: str):
    with pytest.raises(
        ConfigError, match=r"median of 20 m and a maximum of 30\.5 m: 75\.0%.*heads\.depth\.max_depth=31"
    ):
        head(name).check(Depths([8, 20, 20, 30.5]))
    head(name, max_depth=31.0).check(Depths([8, 20, 20, 30.5]))
    for output in ("relative", "softplus"):  # without a limit
        head("dpt", output=output).check(Depths([8, 20, 20, 30.5]))


@pytest.mark.parametrize("name", HEADS)
def test_some_pixels_beyond_are_a_warning(name: str):
    with pytest.warns(UserWarning, match=r"25\.0% of the pixels are beyond max_depth and not trained on"):
        head(name).check(Depths([8, 2, 2, 30.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(name).check(Depths([8, 2, 2, 10]))
        head(name).check(Depths([-1, 0, 2]))
        head(name).check(Depths([]))
