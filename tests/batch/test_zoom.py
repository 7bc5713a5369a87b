"""Metres stay metres at every image size: in parts, columns, strips and joined models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.cli import main
from tests.inference.zoomed_models import FOCAL, IMAGE, MAPS, TYPES, VALUE, check, write_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_model(tmp_path / "run", TYPES)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "options", [["--image-size", "128"], ["--image-size", "source"], ["--window", "48"]], ids=" ".join
)
def test_the_command_writes_parts_and_point_clouds(tmp_path, options):
    write_model(tmp_path / "run", MAPS)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.fromarray(IMAGE).save(tmp_path / "photos" / f"{name}.png")
    base = ["predict", str(tmp_path / "run"), str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *options]
    assert main([*base, "--out", str(tmp_path / "none")]) == 1
    assert f"{tmp_path}/photos/a.png' has no focal length" in (tmp_path / "none/failed.csv").read_text()
    base += ["--focal", str(FOCAL)]
    for part in ("1/2", "2/2"):
        assert main([*base, "--part", part]) == 0
    for name in ("a", "b"):
        check({key: {key: np.load(tmp_path / "out" / key / key / f"{name}.npy")} for key in MAPS}, MAPS)
    for cloud in (tmp_path / "out").rglob("*.ply"):
        lines = cloud.read_bytes().partition(b"end_header\n")[2]
        assert np.frombuffer(lines[:12], "<f4")[2] == pytest.approx(VALUE, rel=0.05)
