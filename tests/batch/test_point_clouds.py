"""Point clouds of the depth that `densevit predict` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.cli import main
from tests.cli.stand_in import StandIn
from tests.drawing.test_point_cloud import read


class Wall(StandIn):
    """Predicts a wall 2 m away."""

    def __init__(self, key: str) -> None:
        super().__init__(("depth",))
        self.key = key

    def see(self, height: int, width: int) -> dict[str, torch.Tensor]:
        return {self.key: torch.full((height, width), 2.0)}


def test_predict_writes_point_clouds_given_a_focal_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.inference.model_loading.load", lambda run, device, trust, runtime: Wall(run))
    Image.fromarray(np.full((3, 5, 3), 7, np.uint8)).save("photo.png")
    command = ["predict", "depth", "photo.png", "--device", "cpu"]
    assert main([*command, "--out", "without"]) == 0
    assert not Path("without/clouds").exists()
    assert main([*command, "--out", "with", "--focal", "4"]) == 0
    cloud = read(Path("with/clouds/photo.ply"))
    assert len(cloud) == 15
    assert cloud[0] == (-1.0, -0.5, 2.0, 7, 7, 7) and cloud[-1] == (1.0, 0.5, 2.0, 7, 7, 7)
    assert main(["predict", "inverse_depth", "photo.png", "--device", "cpu", "--focal", "4"]) != 0
    assert "inverse_depth" in capsys.readouterr().err
