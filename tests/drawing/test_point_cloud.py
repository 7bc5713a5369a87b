"""Point clouds read byte by byte, and points computed by hand."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from densevit.drawing.point_cloud import write_ply
from densevit.errors import DensevitError
from densevit.inference.result import Result


def read(path: Path) -> list[tuple[float, float, float, int, int, int]]:
    header, end, body = path.read_bytes().partition(b"end_header\n")
    assert end
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "x right, y down, z forward, in metres" in lines[2]
    assert [line for line in lines if line.startswith("property")] == [
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {color}" for color in ("red", "green", "blue")),
    ]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[-1])
    assert len(body) == 15 * count
    return list(struct.iter_unpack("<fffBBB", body))


def test_points_by_hand(tmp_path: Path):
    """3 x 2 pixels, focal length 2: columns at -1/2, 0 and 1/2 a metre of depth, rows at -1/4 and 1/4."""
    depth = np.array([[2.0, 4.0, 8.0], [0.0, 4.0, 1.0]], np.float32)
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert write_ply(tmp_path / "cloud.ply", depth, image, focal=2.0) == 5
    assert read(tmp_path / "cloud.ply") == [
        (-1.0, -0.5, 2.0, 0, 1, 2),
        (0.0, -1.0, 4.0, 3, 4, 5),
        (4.0, -2.0, 8.0, 6, 7, 8),
        (0.0, 1.0, 4.0, 12, 13, 14),  # the first of its row is unknown
        (0.5, 0.25, 1.0, 15, 16, 17),
    ]
    result = Result(image, (2, 3), {"depth": {"depth": torch.from_numpy(depth)}}, {"depth": ()})
    assert result.write_ply(str(tmp_path / "result.ply"), focal=(2.0, 4.0), centre=(0.0, 0.5)) == 5
    assert read(tmp_path / "result.ply")[0] == (0.0, -0.25, 2.0, 0, 1, 2)
    unknown = np.array([[0, -1, math.nan, math.inf]], np.float32)
    assert write_ply(tmp_path / "none.ply", unknown, np.zeros((1, 4, 3), np.uint8), focal=100.0) == 0
    relative = Result(image, (2, 3), {"depth": {"inverse_depth": torch.from_numpy(depth)}}, {"depth": ()})
    with pytest.raises(AttributeError, match="no head predicts depth"):
        relative.write_ply(tmp_path / "none.ply", focal=2.0)


@pytest.mark.parametrize(
    ("focal", "image", "facts"),
    [
        (0.0, np.zeros((2, 2, 3), np.uint8), "focal length in pixels above 0"),
        ((100.0, 0.0), np.zeros((2, 2, 3), np.uint8), "focal length in pixels above 0"),
        (100.0, np.zeros((2, 3, 3), np.uint8), r"cloud\.ply is not written: the depth is 2 x 2 and the image 2 x 3"),
        (100.0, np.zeros((2, 2, 3)), r"cloud\.ply is not written: the depth is 2 x 2"),
    ],
)
def test_invalid_focal_lengths_and_images_are_refused(tmp_path: Path, focal: float, image: np.ndarray, facts: str):
    with pytest.raises(DensevitError, match=facts):
        write_ply(tmp_path / "cloud.ply", np.ones((2, 2)), image, focal)
    assert not (tmp_path / "cloud.ply").exists()
