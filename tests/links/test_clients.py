"""CVAT, FiftyOne, Optuna, trackers and Hugging Face data sets: each with its library."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.errors import ConfigError, DataError
from tests.links.results import MASKS, OBJECTS, SIZE, predictor, result
from tests.training.runs import TINY

BLACK = np.zeros((*SIZE, 3), np.uint8)


@pytest.mark.integration
def test_importing_densevit_and_its_plugins_imports_no_tool() -> None:
    tools = "cvat_sdk", "label_studio_sdk", "fiftyone", "optuna", "mlflow", "wandb", "datasets"
    code = f"import densevit, densevit_tools.label_studio, sys; assert not {set(tools)} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "shape", "to_polygons", "expected"),
    [
        ((), "", False, ("rectangle", [8, 10, 24, 30])),
        (("masks",), "", False, ("mask", [0, 320, 8, 10, 23, 29])),  # none outside, 16 x 20 inside, the first and last
        (("masks",), "", True, ("polygon", None)),
        (("masks",), "rectangle", True, ("rectangle", [8, 10, 24, 30])),
    ],
)
def test_cvat_takes_the_annotations(keys: Any, shape: Any, to_polygons: bool, expected: Any) -> None:
    pytest.importorskip("cvat_sdk")
    from cvat_sdk import models
    from cvat_sdk.auto_annotation.driver import _AnnotationMapper

    from densevit_tools.cvat import DetectionFunction

    function = DetectionFunction(predictor(*keys), shape)
    context: Any = SimpleNamespace(conf_threshold=0.5, conv_mask_to_poly=to_polygons)
    parts: Any = {"type": expected[0], "attributes": [], "sublabels": []}
    labels = [models.Label(name=name, id=id, **parts) for name, id in (("dog", 105), ("cat", 103))]
    options = {"allow_unmatched_labels": False, "conv_mask_to_poly": to_polygons}
    mapper = _AnnotationMapper(logging.getLogger(), function.spec.labels, labels, **options)
    _, [annotation] = mapper.validate_and_remap(function.detect(context, Image.fromarray(BLACK)), 5)
    assert (annotation.label_id, annotation.frame, str(annotation.type)) == (105, 5, expected[0])
    assert expected[1] in (None, annotation.points)
    with pytest.raises(ConfigError, match="shape is 'box'; expected one of rectangle"):
        DetectionFunction(predictor(), "box")  # type: ignore[arg-type]


@pytest.mark.slow
def test_fiftyone_takes_the_labels() -> None:
    fiftyone = pytest.importorskip("fiftyone")
    from densevit_tools.fiftyone import detections, model

    dog, cat = detections(result(**OBJECTS, masks=MASKS)).detections
    assert (dog.label, dog.confidence, dog.bounding_box, dog.mask.shape) == (
        "dog",
        0.75,
        [0.1, 0.25, 0.2, 0.5],
        (20, 16),
    )
    assert cat.bounding_box == [0, 0, 1, 1] and (cat.mask == MASKS[1].numpy()).all()
    applied = model(predictor())
    applied.config.confidence_thresh = 0.2
    assert [len(labels.detections) for labels in applied.predict_all([BLACK, BLACK])] == [2, 2]
    assert isinstance(detections(result(semantic=np.zeros(SIZE, np.int64))), fiftyone.Segmentation)
    heat = detections(result(depth=torch.full(SIZE, 2.0)))
    assert heat.range == [2, 2] and heat.map.shape == SIZE


def test_a_metric_is_reported_with_its_step() -> None:
    from densevit_tools.optuna import Pruning

    reports: list[Any] = []
    trial: Any = SimpleNamespace(report=lambda *report: reports.append(report), should_prune=lambda: False)
    trainer: Any = SimpleNamespace(sanity_checking=False, callback_metrics={"x/AP": torch.tensor(0.5)}, global_step=7)
    Pruning(trial, "x/AP").on_validation_end(trainer, None)
    assert reports == [(0.5, 7)]
    with pytest.raises(ConfigError, match=r"'x/APP' is not a metric\. Did you mean 'x/AP'"):
        Pruning(trial, "x/APP").on_validation_end(trainer, None)


@pytest.mark.slow
def test_optuna_prunes_runs(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    from densevit_tools.optuna import Pruning

    class Second(optuna.pruners.BasePruner):  # type: ignore[misc, name-defined]
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number == 1)

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1e-2)
        (tmp_path / "tiny.yaml").write_text(TINY)
        callbacks = [Pruning(trial, "detection/AP50")]
        run = densevit.fit(
            tmp_path / "tiny.yaml", {"optim.lr": lr}, run_dir=tmp_path / str(trial.number), callbacks=callbacks
        )
        return run.metrics["detection/AP50"]

    study = optuna.create_study(direction="maximize", pruner=Second())
    study.optimize(objective, n_trials=2)
    first, second = study.trials
    assert (first.state.name, [*first.intermediate_values]) == (
        "COMPLETE",
        [2, 4, 6, 8][: len(first.intermediate_values)],
    )
    assert (second.state.name, len(second.intermediate_values)) == ("PRUNED", 1)
    assert first.value == max(first.intermediate_values.values())


@pytest.mark.slow
def test_trackers_get_the_name_and_the_files_of_each_run(tmp_path: Path, monkeypatch: Any) -> None:
    mlflow, wandb = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    loggers = "trainer.loggers=[mlflow, wandb, tensorboard, lightning.pytorch.loggers:CSVLogger]"
    for name in ("a", "b"):
        densevit.fit("tiny.yaml", ["trainer.max_epochs=1", loggers], run_dir=f"runs/{name}")
        assert wandb.run is None, "the next run is another"
        assert len([*Path(f"runs/{name}/wandb").glob("offline-run-*/run-*.wandb")]) == 1
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/runs/b/mlflow.db")
    [run] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.run_name == "b" and run.info.artifact_uri.startswith((tmp_path / "runs/b").as_uri())
    files = {"config.yaml", "metrics.json", "model.safetensors", "report.html", "predictions"}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == files
    assert {*os.listdir()} == {"runs", "tiny.yaml"}


@pytest.mark.slow
def test_hugging_face_data_sets_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from densevit_tools.hf_dataset import HuggingFaceDataset

    photo, labels = Image.fromarray(BLACK), Image.fromarray(np.eye(*SIZE, dtype=np.uint8))
    category = datasets.ClassLabel(names=["cat", "dog"])
    box = {"bbox": datasets.Sequence(datasets.Value("float32"), length=4), "category": category}
    features = datasets.Features(image=datasets.Image(), objects=datasets.Sequence(box), annotation=datasets.Image())
    rows = {
        "image": [photo] * 2,
        "objects": [{"bbox": [[8, 10, 16, 20]], "category": [1]}, {"bbox": [], "category": []}],
        "annotation": [labels] * 2,
    }
    table = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(train=table, validation=table).save_to_disk(str(tmp_path / "saved"))
    options: Any = {"name": "hf", "path": str(tmp_path / "saved")}
    for data in (densevit.build_data(options).val, HuggingFaceDataset("val", dataset=table)):
        assert [c.name for c in data.classes["detection"]] == ["cat", "dog"]
        targets, empty = data[0]["targets"], data[1]["targets"]
        assert targets["boxes"].tolist() == [[8, 10, 24, 30]] and targets["labels"].tolist() == [1]
        assert targets["area"].tolist() == [320] and empty["boxes"].shape == (0, 4)
    maps = densevit.build_data({**options, "column": "annotation", "classes": ["ground", "line"]}).val
    assert maps[0]["targets"]["semantic"].sum() == SIZE[0] and maps[0]["image"].shape == (3, *SIZE)
    with pytest.raises(DataError, match=r"has no split 'test', only train, validation"):
        HuggingFaceDataset("test", str(tmp_path / "saved"))
    (tmp_path / "folder" / "train").mkdir(parents=True)
    photo.save(tmp_path / "folder" / "train" / "0.png")
    entry = {"file_name": "0.png", "objects": {"bbox": [[40, 20, 60, 30]], "categories": [2]}}
    (tmp_path / "folder" / "train" / "metadata.jsonl").write_text(json.dumps(entry))
    with pytest.raises(DataError, match=r"corners \[40.0, 20.0, 100.0, 50.0\].*box_format=xyxy"):
        HuggingFaceDataset("train", str(tmp_path / "folder"))[0]
    corners = HuggingFaceDataset("train", str(tmp_path / "folder"), box_format="xyxy")
    assert corners[0]["targets"]["boxes"].tolist() == [[40, 20, 60, 30]] and len(corners.classes["detection"]) == 3
