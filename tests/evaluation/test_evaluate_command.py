"""`densevit evaluate` with fakes for the model, the data and the evaluation."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit import config as configs
from densevit.cli import main
from densevit.evaluation.coco import CocoDetection
from densevit.evaluation.miou import SemanticSegmentation
from densevit.inference.loading import LoadedModel
from densevit.interfaces import Class, Evaluator, Head

CLASSES = (Class("cat", 17, (250, 10, 20)), Class("dog", 18, (20, 30, 240)))
CONFIG = "backbone: {name: swin}\nheads: {detection: {name: detr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


class Detection(Head):
    task, needs = "detection", ("boxes", "labels")


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run folder `run` in the working directory; records the arguments that the command passes on."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text(CONFIG)
    config = configs.load(Path("run/config.yaml"))
    heads = {"detection": Detection((8,), (8,), CLASSES)}
    model = SimpleNamespace(
        backbone=SimpleNamespace(input_size=None),
        multiple=16,
        classes={"detection": CLASSES},
        heads=heads,
        target_types={},
    )
    data = SimpleNamespace(val=SimpleNamespace(classes={"detection": CLASSES}, check_labels=lambda: None))
    seen: dict[str, Any] = {"data": data}

    def build_data(config: configs.Config, multiple: int) -> Any:
        seen.update(config=config, multiple=multiple)
        return seen["data"]

    def evaluate(*given: Any) -> tuple[dict[str, float], dict[str, Evaluator]]:
        assert given[:3] == (model, seen["data"], seen["config"])
        if "semantic" in seen:
            return seen["semantic"](*given[3:])
        evaluator = CocoDetection(CLASSES)
        box, one = torch.tensor([[0.0, 0, 50, 50]]), torch.ones(1, dtype=torch.long)
        evaluator.update(
            [{"boxes": box, "scores": torch.ones(1), "labels": one}], [{"image_id": 139, "boxes": box, "labels": one}]
        )
        return {f"detection/{name}": value for name, value in evaluator.compute().items()}, {"detection": evaluator}

    monkeypatch.setattr("densevit.inference.loading.load_any", lambda run: LoadedModel(model, config, foreign=False))
    monkeypatch.setattr("densevit.data.build.build_data", build_data)
    monkeypatch.setattr("densevit.training.evaluation.evaluate", evaluate)
    return seen


def test_evaluate_prints_a_table_and_writes_metrics_and_detections(
    seen: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "run", "--out", "out/deep"]) == 0
    table = capsys.readouterr().out
    assert ["AP", "1.0000", "AP50", "1.0000", "AP75", "1.0000", "APs", "–", "APm", "1.0000", "APl", "–"] in [
        line.split() for line in table.splitlines()
    ]
    metrics = json.loads(Path("out/deep/metrics.json").read_text())
    assert metrics["detection/APs"] is None and metrics["detection/AP/cat"] is None
    assert math.isclose(metrics["detection/AP"], 1)
    assert json.loads(Path("out/deep/detections.json").read_text()) == [
        {"image_id": 139, "category_id": 18, "bbox": [0, 0, 50, 50], "score": 1}
    ]
    assert seen["multiple"] == 16


def test_label_maps_and_the_confusion_matrix_are_written(seen: dict[str, Any]):
    """Evaluators and the writer get each map; written values are the classes' file ids."""
    found, truth = np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8)

    def evaluate(write: Any) -> tuple[dict[str, float], dict[str, Evaluator]]:
        evaluator = SemanticSegmentation(CLASSES)
        evaluator.update([{"semantic": found}], [{"image_id": "town/1", "semantic": truth}])
        write("detection", "town/1", {"semantic": found})
        return {"detection/mIoU": evaluator.compute()["mIoU"]}, {"detection": evaluator}

    seen["semantic"] = evaluate
    assert main(["evaluate", "run", "--out", "out"]) == 0
    files = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")}
    assert files == {"metrics.json", "confusion-detection.csv", "semantic/town/1.png"}
    assert np.array(Image.open("out/semantic/town/1.png")).tolist() == [[17, 18, 18]]
    assert Path("out/confusion-detection.csv").read_text().splitlines() == [
        "truth \\ prediction,cat,dog",
        "cat,1,1",
        "dog,0,0",
    ]


def test_evaluate_without_out_writes_no_files(seen: dict[str, Any]):
    assert main(["evaluate", "run"]) == 0
    assert [path.name for path in Path().rglob("*")] == ["run", "config.yaml"]


def test_overrides_change_the_data_but_not_the_model(seen: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "run", "data.batch_size=3", "heads.detection.evaluation.max_detections=300"]) == 0
    assert seen["config"].data.batch_size == 3
    assert seen["config"].heads["detection"].evaluation.options == {"max_detections": 300}
    for override in (
        "backbone.variant=base",
        "heads.detection.num_queries=3",
        "weights=x",
        "optim.lr=1",
        "heads.other.name=detr",
    ):
        assert main(["evaluate", "run", override]) == 2
        assert f"{override}: a run is evaluated as it was trained" in capsys.readouterr().err


def test_non_empty_folder_is_not_modified(seen: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "run", "--out", "run"]) == 2
    assert "run is not empty" in capsys.readouterr().err
    assert "config" not in seen  # raised before any work


def test_data_with_other_classes_raises(seen: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    seen["data"] = SimpleNamespace(val=SimpleNamespace(classes={"detection": CLASSES[::-1]}, check_labels=lambda: None))
    assert main(["evaluate", "run"]) == 2
    assert "Found: dog, cat. Expected: cat, dog." in capsys.readouterr().err
