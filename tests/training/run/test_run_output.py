"""densevit/training/run/run_output.py: what end-to-end runs write, on a few rendered images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.evaluation import tables_file
from densevit.evaluation.coco_ap import CocoDetection
from densevit.reporting.confusion_heat_map import read_confusion
from densevit.training.callbacks.best_epoch import BestEpoch
from tests.training.runs import (
    SEGMENTATION,
    assert_same,
    resume,
    rows,
    train,
    weights,
)


@pytest.mark.integration
def test_run_folder_is_complete_loads_and_reproduces(tiny: Path, tmp_path: Path) -> None:
    run = train(configs.load(tiny, ["trainer.max_steps=2"]), tmp_path / "run")
    for name in ("config.yaml", "metrics.json", "metrics.csv", "model.safetensors", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "step-1.ckpt"}
    assert len(list((run / "predictions").glob("*.jpg"))) == 3
    assert "detection/AP50" in json.loads((run / "metrics.json").read_text())

    model = densevit.load(run)
    assert [c.name for c in model.classes["detection"]][:2] == ["ball", "box"]
    predictions = model.predict([torch.zeros(50, 70, 3, dtype=torch.uint8).numpy()], 0)[0]
    assert predictions["boxes"].shape == (8, 4)

    again = train(configs.load(run / "config.yaml"), tmp_path / "again")  # the resolved config is complete
    assert_same(weights(run), weights(again))
    assert (run / "metrics.json").read_text() == (again / "metrics.json").read_text()


@pytest.mark.integration
def test_segmentation_run_saves_the_best_epoch_s_confusion_matrix(tmp_path, monkeypatch):
    """The counts give the mIoU in metrics.json, also if a later epoch is worse."""
    path = tmp_path / "seg.yaml"
    path.write_text(SEGMENTATION)
    beats = iter([True, False])  # the second epoch, and the third
    monkeypatch.setattr(BestEpoch, "beats", lambda self, new, best: next(beats))
    run = train(configs.load(path), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    names, counts, _ = read_confusion(run / "confusion-surfaces.csv")
    assert names == [c.name for c in densevit.load(run).classes["surfaces"]]
    assert counts.sum() == 3 * 32 * 32
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    iou = (counts.diagonal() / union.clip(1))[union > 0]
    assert metrics["surfaces/mIoU"] == pytest.approx(iou.mean(), abs=1e-12)
    values = [float(row["surfaces/mIoU"]) for row in rows(run) if row["surfaces/mIoU"]]
    assert values[1] == metrics["surfaces/mIoU"] not in (values[0], values[2])
    assert "Confusion: surfaces" in (run / "report.html").read_text()


class Measured(CocoDetection):
    """With the score threshold and the AP that the test sets."""

    threshold, ap = 0.25, 0.1

    def score_threshold(self, records: Any) -> float:
        return self.threshold

    def metrics(self) -> dict[str, float]:
        return super().metrics() | {"AP": self.ap}


@pytest.mark.integration
def test_the_score_threshold_of_the_best_epoch_is_saved_and_kept(tiny: Path) -> None:
    given = [f"heads.detection.evaluation.name={__name__}:Measured", "trainer.evaluate_every_epochs=1"]
    run = train(configs.load(tiny, ["trainer.max_epochs=1", *given]), tiny.parent / "run")
    assert densevit.load(run).score_thresholds == {"detection": 0.25}
    assert tables_file.read_thresholds(run) == {"detection": 0.25}
    assert "scores from 0.25" in (run / "confusion-detection.csv").read_text().partition("\n")[0]
    assert "drawn and counted from a score of 0.25 (detection)" in (run / "report.html").read_text()

    Measured.threshold = 0.5
    resume(run, ["trainer.max_epochs=2"])
    for file, expected in ((run, 0.25), (run / "checkpoints" / "last.ckpt", 0.5)):  # of the file's own weights
        assert densevit.load(file, trust=True).score_thresholds == {"detection": expected}
    Measured.ap = 0.2
    resume(run, ["trainer.max_epochs=3"])
    assert densevit.load(run).score_thresholds == {"detection": 0.5}
