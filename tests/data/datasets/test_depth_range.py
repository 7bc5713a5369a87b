"""densevit/data/datasets/depth_range.py: wrong units of depth maps, found at the start, with the likely fix."""

import numpy as np
import pytest

from densevit.data.datasets.depth_maps import DepthMaps
from densevit.data.datasets.depth_values import Calibration, Unknown
from densevit.errors import DataError
from tests.data.datasets.conftest import MILLIMETRES, opened


def test_range_and_median_are_logged_once_per_split(tmp_path, depth_pair, capsys, environment):
    depth_pair(MILLIMETRES)
    opened(DepthMaps, "train", root=str(tmp_path), scale=0.001, unknown=Unknown(above=2))
    shown = capsys.readouterr().err
    assert shown == "depth, train: 0.5 to 65.5 m, median 2 m, 83.3% of pixels known (read 1 of 1)\n"
    environment(LOCAL_RANK=1)
    opened(DepthMaps, "train", root=str(tmp_path), scale=0.001)
    assert capsys.readouterr().err == ""


def test_integer_files_require_a_scale(tmp_path, depth_pair):
    depth_pair(MILLIMETRES)
    facts = r"data\.scale is missing: .*labels/train/a\.png .*0 to 65535.*data\.scale=0\.001.*KITTI"
    with pytest.raises(DataError, match=facts):
        opened(DepthMaps, "train", root=str(tmp_path))
    assert len(opened(DepthMaps, "train", root=str(tmp_path), metric=False)) == 1


@pytest.mark.parametrize(
    ("scale", "range", "fix"),
    [
        (0.001, (3.0, 60.0), "1/256 m, as in KITTI: set data.scale=0.00390625"),
        (1e-6, (0.05, 250.0), "millimetres: set data.scale=0.001"),
        (1.0, (0.05, 250.0), r"'train'.*2000 m.*500 to 65535 m.*0\.05 to 250 m.*scale=0\.001"),
        (0.001, (300.0, 400.0), r"Set data\.scale, .*data\.depth_range=\[LOW,HIGH\]"),
    ],
)
def test_wrong_scale_and_declared_range(scale, range, fix, tmp_path, depth_pair):
    depth_pair(MILLIMETRES)
    with pytest.raises(DataError, match=fix):
        opened(DepthMaps, "train", root=str(tmp_path), scale=scale, depth_range=range)


def test_invalid_calibration_raises(tmp_path, depth_pair):
    depth_pair(np.array([[100, 200]], np.uint8))
    with pytest.raises(DataError, match=r"Check data\.stereo: baseline \(metres\), focal"):
        opened(DepthMaps, "train", root=str(tmp_path), depth_type="disparity", stereo=Calibration(0.16, 3.7, 200))
