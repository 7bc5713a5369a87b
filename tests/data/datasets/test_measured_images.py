"""densevit/data/datasets/measured_images.py: images of other channels than RGB, their errors and caches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from densevit import config as configs
from densevit.data.channel_statistics import measured
from densevit.data.data_splits import DataSplits
from densevit.data.datasets import division
from densevit.errors import ConfigError, DataError
from tests.data.image_sources import SOURCES, H, W, read_data, write_coco, write_images

SETS = {"coco": "", "images": "{split}/{number}", "image_folder": "{split}/{number}/x"}  # the pattern of the images


def written(root: Path, name: str, kind: str = "bands") -> list[str]:
    """The paths of two images of four channels in each split, sorted."""
    source = SOURCES[kind]
    return sorted(write_images(source, root, SETS[name]) if SETS[name] else write_coco(source, root))


def data(root: Path, name: str, kind: str = "bands", **options: Any) -> DataSplits:
    return read_data(SOURCES[kind], root, name, image_size=16, **options)


@pytest.mark.parametrize("name", SETS)
def test_an_image_of_another_type_is_named(name, tmp_path):
    path = written(tmp_path, name)[-1]
    tifffile.imwrite(path, np.zeros((H, W, 4), np.uint8), photometric="minisblack", planarconfig="contig")
    facts = rf"{Path(path).name}: its pixels are uint8; those of the other images are uint16"
    with pytest.raises(DataError, match=facts):
        _ = [split[index] for split in (data(tmp_path, name).train, data(tmp_path, name).val) for index in range(2)]


def test_a_data_set_of_its_own_channels_takes_none():
    with pytest.raises(ConfigError, match=r"'scenes' has channels of its own \(red, green, blue, uint8"):
        _ = DataSplits(configs.section("data", {"name": "scenes", "channels": ["nir"]}, "test"), 0, 8).train


@pytest.mark.parametrize("name", ("images", "image_folder"))
def test_a_first_file_that_cannot_be_read_may_be_left_out(name, tmp_path):
    first = Path(written(tmp_path, name)[0])
    first.write_bytes(first.read_bytes()[:200])
    with pytest.warns(UserWarning, match="will be left out"):
        assert data(tmp_path, name, on_error="skip").train.channels.dtype == "uint16"
    with pytest.raises(DataError, match=first.name):
        _ = data(tmp_path, name).train


@pytest.mark.parametrize("reads", ("statistics", "scan", "division"))
def test_a_new_file_of_any_channel_ends_what_is_cached(reads, tmp_path, cached_scans, monkeypatch):
    monkeypatch.setattr(division, "_FEW", 1)
    written(tmp_path, "images", "a file per channel")

    def result() -> object:
        train = data(tmp_path, "images", "a file per channel").train
        if reads == "division":
            paths = [train.path(index) for index in range(len(train))]
            return division.similar_images(paths, train.channels)["digests"].tolist()
        return measured(train) if reads == "statistics" else train.sizes().tolist()

    before = result()
    assert result() == before
    size = (H, W) if reads != "scan" else (H + 1, W)
    changed = np.random.default_rng(9).integers(2000, 60000, size).astype(np.uint16)
    tifffile.imwrite(tmp_path / "train" / "1_nir.tif", changed)  # that of image 0 is read at each start
    if reads == "scan":
        with pytest.raises(DataError, match=r"_nir\.tif: it has \(height, width, channels\) \(49, 64, 1\)"):
            result()
    else:
        assert result() != before
