"""densevit/data/datasets/depth_values.py: stored values become metres, computed by hand."""

from typing import Any

import numpy as np
import pytest

from densevit.data.datasets.depth_maps import DepthMaps
from densevit.data.datasets.depth_values import Calibration, Unknown
from tests.data.datasets.conftest import MILLIMETRES, metres, opened

CONVERTED: dict[str, tuple[Any, dict[str, Any], list[list[float]]]] = {
    # stored values, options, depth
    "floating-point, in metres": (np.array([[1.5, 0, -1, np.nan, np.inf, 2]], np.float32), {}, [[1.5, 0, 0, 0, 0, 2]]),
    "Middlebury: 598.4 / 300 and 598.4 / 400 m": (
        np.array([[0, 100, 200]], np.uint8),
        {"depth_type": "disparity", "stereo": Calibration(0.16, 3740, 200)},
        [[0, 1.99467, 1.496]],
    ),
    "1600 sixteenths are 100 pixels: 0.5 * 1000 / 100 m": (
        np.array([[0, 1600]], np.uint16),
        {"depth_type": "disparity", "stereo": Calibration(0.5, 1000), "scale": 1 / 16},
        [[0, 5]],
    ),
    "inverse depth": (
        np.array([[0, 500, 125]], np.uint16),
        {"depth_type": "inverse_depth", "scale": 0.001},
        [[0, 2, 8]],
    ),
    "relative": (
        np.array([[0, 1, 100, 250]], np.uint8),
        {"depth_type": "disparity", "metric": False},
        [[0, 1, 0.01, 0.004]],
    ),
    "invalid and out of range": (
        MILLIMETRES,
        {"scale": 0.001, "unknown": Unknown([65535, 2000], 1, 2.5)},
        [[0, 1.5, 0, 2.5], [1, 0, 0, 0], [0, 0, 0, 0]],
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_stored_values_become_depth(case, tmp_path, depth_pair, capsys):
    stored, options, expected = CONVERTED[case]
    depth_pair(stored, ".npy" if stored.dtype == np.float32 else ".png")
    dataset = opened(DepthMaps, "train", root=str(tmp_path), **options)
    assert metres(dataset) == expected and dataset.metric == options.get("metric", True)
    if case == "relative":
        found = capsys.readouterr().err
        assert "0.004 to 1 (relative, without unit), median 0.01, 75.0% of pixels known" in found
