from pathlib import Path

import pytest

from densevit.reporting.curves import downsampled, read_curves


def test_columns_are_plotted_over_steps(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,step,train/loss,detection/AP,detection/APs\n0,0,4.5,,\n0,50,2.5,,\n0,99,,0.25,nan\n1,150,inf,0.5,\n"
    )
    assert read_curves(path) == {"train/loss": [(0, 4.5), (50, 2.5)], "detection/AP": [(99, 0.25), (150, 0.5)]}


@pytest.mark.parametrize("cut", ["", "step,train/loss", "step,train/loss\n1,2\n3", "\0\0\n\0"])
def test_truncated_file_gives_complete_rows(tmp_path: Path, cut: str):
    path = tmp_path / "metrics.csv"
    path.write_text(cut)
    assert read_curves(path) == ({"train/loss": [(1, 2)]} if "1,2" in cut else {})


def test_many_points_are_averaged_except_for_the_last():
    points = [(float(n), float(n % 2)) for n in range(1000)]
    few = downsampled(points, most=100)
    assert len(few) == 100
    assert few[0] == (4.5, 0.5) and few[-1] == (999, 1)
    assert downsampled(points[:100], most=100) == points[:100]
