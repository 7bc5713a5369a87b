"""End-to-end runs, on a few rendered images and a model with a few thousand parameters.

A test trains where its training differs from those that other tests share by `trained`, or is interrupted or patched.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import densevit
from densevit import config as configs
from densevit.cli import main
from densevit.errors import ConfigError, WeightsError
from densevit.evaluation import tables_file
from densevit.evaluation.coco import CocoDetection
from densevit.reporting.confusion import read_confusion
from densevit.training.callbacks.best_epoch import BestEpoch
from densevit.weights.state import read_safetensors
from densevit_scenes.dataset import Scenes
from densevit_workbench.interchange.dataset_writer import write_split
from tests.training.runs import assert_same, interrupted_after, recorded, resume, rows, train, weights

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads:
  detection:
    {name: dab_detr, num_queries: 8, classification: mal, extensions: {denoising: 1},
     transformer: {width: 32, num_heads: 2, encoder_layers: 1, decoder_layers: 2, feedforward: 32, dropout: 0.1}}
data: {name: scenes, image_size: 64, batch_size: 2, num_workers: 0, train_length: 8, val_length: 3}
optim: {lr: 1e-3, schedule: cosine, warmup_steps: 2}
trainer: {max_epochs: 2, precision: "32", accelerator: cpu, log_every: 1, clip_grad_norm: 0.1}
"""
SEGMENTATION = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {surfaces: {name: setr, decoder: mla, width: 16, branch_width: 8, auxiliary: [], norm: batch}}
data: {name: scenes, image_size: 32, batch_size: 2, num_workers: 0, train_length: 4, val_length: 3}
optim: {lr: 1e-2}
trainer: {max_epochs: 3, precision: "32", accelerator: cpu}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_run_folder_is_complete_loads_and_reproduces(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained(TINY)
    for name in ("config.yaml", "metrics.json", "metrics.csv", "model.safetensors", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "step-6.ckpt"}
    assert len(list((run / "predictions").glob("*.jpg"))) == 3
    assert "detection/AP50" in json.loads((run / "metrics.json").read_text())

    model = densevit.load(run)
    assert [c.name for c in model.classes["detection"]][:2] == ["ball", "box"]
    predictions = model.predict([torch.zeros(50, 70, 3, dtype=torch.uint8).numpy()])[0]
    assert predictions["boxes"].shape == (8, 4)

    again = train(configs.load(run / "config.yaml"), tmp_path / "again")  # the resolved config is complete
    assert_same(weights(run), weights(again))
    assert (run / "metrics.json").read_text() == (again / "metrics.json").read_text()


def test_segmentation_run_saves_the_best_epoch_s_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


FINAL_PHASE = "data.final_phase={start: 0.6, multi_scale: null, transforms: resize}"
STOPS = [
    (2, ["trainer.evaluate_every=1"]),  # in the middle of an epoch
    (3, ["trainer.ema=0.9", "trainer.evaluate_every=1"]),
    (4, []),  # at the end of an epoch
    (4, ["trainer.ema=0.9", "trainer.evaluate_every=0.5"]),
    (5, ["trainer.max_epochs=null", "trainer.max_images=14"]),  # in the second epoch, which is not finished
    (4, ["data.multi_scale=[32,64,96]", FINAL_PHASE]),
    (6, ["data.multi_scale=[32,64]", "data.final_phase={start: 0.6, multi_scale: null}", "data.num_workers=1"]),
    (3, ["trainer.ema=0.9", "trainer.ema_warmup=2", "trainer.evaluate_every=0.5"]),
]


@pytest.mark.parametrize(
    ("stop_after", "overrides"),
    [
        (2, []),  # before a validation in the middle of an epoch
        *(pytest.param(*stop, marks=pytest.mark.integration) for stop in STOPS),
    ],
)
def test_resumed_run_matches_an_uninterrupted_one(
    tiny: Path, tmp_path: Path, trained: Callable[..., Path], stop_after: int, overrides: list[str]
) -> None:
    whole = trained(TINY, overrides)
    with interrupted_after(stop_after):
        stopped = train(configs.load(tiny, overrides), tmp_path / "stopped")
    step = torch.load(stopped / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert step == stop_after
    for name in ("metrics.json", "model.safetensors", "report.html"):
        assert (stopped / name).is_file(), name

    assert resume(stopped) == stopped
    assert_same(weights(whole), weights(stopped))
    assert recorded(whole) == recorded(stopped)
    assert (whole / "metrics.json").read_text() == (stopped / "metrics.json").read_text()


def test_the_phases_are_printed_at_the_start(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densevit.training.run.fit._train", lambda *_: 0)
    monkeypatch.setattr("densevit.training.run.fit.finish", lambda *_: None)
    train(configs.load(tiny, ["data.multi_scale=[64,96,32,64]", FINAL_PHASE]), tmp_path / "run")
    printed = " ".join(capsys.readouterr().out.split())
    assert "multi-scale: each batch has one of 3 sizes from 32 to 96" in printed
    assert "final phase: {multi_scale: null, transforms: {name: resize}} from step 6 of 8" in printed


@pytest.mark.integration
def test_max_steps_within_an_epoch_leaves_a_complete_folder(tiny: Path, tmp_path: Path) -> None:
    run = train(configs.load(tiny, ["trainer.max_steps=3", "trainer.log_every=50"]), tmp_path / "run")
    assert "detection/AP" in json.loads((run / "metrics.json").read_text())
    assert (run / "model.safetensors").is_file()
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert (checkpoint["global_step"], checkpoint["epoch"]) == (3, 0)
    assert any(row["train/loss"] for row in rows(run))
    assert {row["epoch"] for row in rows(run)} == {"0"}


@pytest.mark.integration
@pytest.mark.parametrize("steps", [3, 4])  # an epoch has 4
def test_finished_run_resumes_with_a_larger_budget(
    tiny: Path, tmp_path: Path, trained: Callable[..., Path], steps: int
) -> None:
    constant = ["optim.schedule=constant", "optim.warmup_steps=0", "trainer.log_every=1"]
    whole = trained(TINY, [*constant, "trainer.max_steps=6"])
    run = train(configs.load(tiny, [*constant, f"trainer.max_steps={steps}"]), tmp_path / "run")
    before = weights(run)
    resume(run)  # its budget is already used
    assert_same(weights(run), before)
    resume(run, ["trainer.max_steps=6"])
    assert_same(weights(run), weights(whole))
    assert configs.load(run / "config.yaml").trainer.max_steps == 6


def test_resuming_with_another_optimiser_raises(copied_run: Callable[..., Path]) -> None:
    run = copied_run(TINY, ["trainer.max_steps=1"])
    with pytest.raises(
        ConfigError, match=r"The model, the optimiser and the data set cannot change.*\n  optim\.name: 'adamw' -> 'sgd'"
    ):
        resume(run, ["optim.name=sgd"])


@pytest.mark.integration
def test_data_with_a_validation_split_only_is_evaluated(
    trained: Callable[..., Path], tmp_path: Path, project: Path
) -> None:
    run = trained(TINY, ["trainer.max_steps=1"])
    for split in ("val", "holdout"):
        assert len(list(write_split(Scenes("val", image_size=64, val_length=3), tmp_path / split, split))) == 3
        section = [f"data={project}/configs/data/folder.yaml", f"data.root={tmp_path / split}", f"data.split={split}"]
        assert main(["evaluate", str(run), *section, "--out", str(tmp_path / f"out-{split}")]) == 0
    metrics = [(tmp_path / f"out-{split}" / "metrics.json").read_text() for split in ("val", "holdout")]
    assert metrics[0] == metrics[1]


@pytest.mark.integration
def test_averaged_weights_are_saved(tiny: Path, tmp_path: Path) -> None:
    run = train(
        configs.load(tiny, ["trainer.ema=0.9", "trainer.max_epochs=1", "trainer.evaluate_every=1"]), tmp_path / "run"
    )
    kept, _ = read_safetensors(run / "model.safetensors")
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    current = checkpoint["current_model_state"]
    key = "heads.detection.label_head.weight"
    torch.testing.assert_close(kept[key], checkpoint["state_dict"][f"model.{key}"])
    assert not torch.equal(kept[key], current[f"model.{key}"])


def test_non_empty_folder_is_not_modified(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all my work")
    with pytest.raises(ConfigError, match="is not empty"):
        train(configs.load(tiny), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_next_free_folder_is_used(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.training.run.fit._train", lambda *_: 0)
    monkeypatch.setattr("densevit.training.run.fit.finish", lambda *_: None)
    short = configs.load(tiny, ["trainer.max_steps=1"])
    assert train(short, name="tiny") == Path("runs/tiny")
    assert train(short, name="tiny") == Path("runs/tiny-2")


def test_resuming_without_a_run_raises(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"last\.ckpt"):
        resume(tmp_path)


def test_unknown_monitor_raises_before_training(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.monitor.*detection/AP"):
        train(configs.load(tiny, ["trainer.monitor=detection/APP"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.integration
def test_training_starts_from_another_run_s_weights(tiny: Path, tmp_path: Path, trained: Callable[..., Path]) -> None:
    first = trained(TINY, ["trainer.max_steps=1"])
    second = train(
        configs.load(tiny, ["trainer.max_steps=1", f"weights={first}", "optim.lr=1e-12"]), tmp_path / "second"
    )
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    torch.testing.assert_close(a["heads.detection.label_head.weight"], b["heads.detection.label_head.weight"])


@pytest.mark.integration
def test_the_score_threshold_of_the_best_epoch_is_saved_and_kept(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CocoDetection, "score_threshold", lambda self: 0.25)
    run = train(configs.load(tiny), tiny.parent / "run")
    assert densevit.load(run).score_thresholds == {"detection": 0.25}
    assert tables_file.read_thresholds(run) == {"detection": 0.25}
    assert "scores from 0.25" in (run / "confusion-detection.csv").read_text().partition("\n")[0]
    assert "drawn and counted from a score of 0.25 (detection)" in (run / "report.html").read_text()

    monkeypatch.setattr(CocoDetection, "score_threshold", lambda self: 0.5)
    monkeypatch.setattr(BestEpoch, "improves", lambda self, metrics: False)
    resume(run, ["trainer.max_epochs=3"])
    for file in (run, run / "checkpoints" / "last.ckpt"):
        assert densevit.load(file).score_thresholds == {"detection": 0.25}
    metrics = densevit.evaluate(run)
    assert densevit.load(run).score_thresholds == {"detection": 0.25}
    predictor = densevit.load(run)
    predictor.model.score_thresholds = {"detection": 1.0}  # evaluation does not use it
    assert densevit.evaluate(predictor) == pytest.approx(metrics, nan_ok=True)

    monkeypatch.setattr(BestEpoch, "improves", lambda self, metrics: True)
    resume(run, ["trainer.max_epochs=4"])
    assert densevit.load(run).score_thresholds == {"detection": 0.5}
