"""One score threshold everywhere: that of the model's validation, 0.5 for a model without one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.cli import main
from densevit.evaluation import tables_file
from densevit.interfaces import Class, Evaluator
from densevit.model import DenseModel
from densevit.targets import RunLengthMasks
from densevit.training.loop.evaluator_factory import build_evaluators
from densevit_batch.batch_predictor import BatchPredictor
from densevit_batch.prelabels import prelabel
from tests.cli.stand_in import StandIn
from tests.small_models import FOUR_MAPS, evaluated_at

OWN = 0.4485
CLASSES = (Class("cell", 1, (250, 10, 20)),)
SHIFTED = 46 / 100  # between the two


def bare(own: dict[str, float], kind: str = "detection") -> DenseModel:
    """A model without parameters, whose head detects."""
    model = DenseModel.__new__(DenseModel)
    torch.nn.Module.__init__(model)
    head: Any = SimpleNamespace(task=kind, target_types=None, predict=None)
    model.heads = {"cells": head}  # type: ignore[assignment]
    model.classes, model.score_thresholds = {"cells": CLASSES}, own
    return model


MODELS = {"own": ({"cells": OWN}, OWN), "none": ({}, 0.5)}


# ---- the places ----


def found_and_truth() -> tuple[dict[str, Any], dict[str, Any]]:
    """An object, and a correct prediction with a score between the model's own threshold and 0.5."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 2:12, 2:12] = True
    values = {"boxes": torch.tensor([[2.0, 2, 12, 12]]), "labels": torch.tensor([0]), "masks": mask}
    values["panoptic"] = torch.where(mask[0], 0, -1)
    truth = {**values, "image_id": 1, "masks": RunLengthMasks.from_dense(mask, (20, 20))}
    return {**values, "scores": torch.tensor([SHIFTED])}, truth


@pytest.mark.parametrize("own", MODELS)
@pytest.mark.parametrize(("name", "table"), [("panoptic", "mask-confusion"), ("coco_masks", "confusion")])
def test_tables_count_the_objects_of_predict(name: str, table: str, own: str, tmp_path: Path) -> None:
    """Which are in the confusion matrix, in image scores."""
    thresholds, expected = MODELS[own]
    data: Any = SimpleNamespace(classes={"detection": CLASSES}, provides=("boxes", "masks"))
    model = bare(thresholds, name)
    evaluator: Evaluator = build_evaluators(model, None, data)["cells"]
    found, truth = found_and_truth()
    evaluator.update([found], [truth])
    tables_file.write_tables({"cells": evaluator}, tmp_path, {}, model.default_thresholds)
    counted = expected <= SHIFTED
    assert tables_file.read_thresholds(tmp_path) == {"cells": expected}
    header, *rows = tables_file.read_values(tmp_path / f"{table}-cells.csv")
    assert header[0] == f"truth \\ prediction, scores from {expected}"
    assert [row[1:] for row in rows] == [[int(counted), int(not counted)], [0, 0]]
    if name != "panoptic":
        assert tables_file.read_values(tmp_path / "images-cells.csv")[1:] == [["1", 1, float(counted)]]


@pytest.fixture(params=MODELS)
def stand_in(request: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[StandIn, float]:
    """The command's model, an image, and the folder of its predictions: objects with scores of 0.75 and 0.46."""
    model, (thresholds, expected) = StandIn(("cells",)), MODELS[request.param]
    model.score_thresholds, see = dict(thresholds), model.see
    monkeypatch.setattr(model, "see", lambda *size: {**see(*size), "scores": torch.tensor([0.75, SHIFTED])})
    monkeypatch.setattr("densevit.inference.model_loading.load", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("a.png")
    assert main(["predict", "RUN", "a.png", "--out", "found"]) == 0
    return model, expected


def test_predict_and_prelabel_have_one_default_and_name_it(
    stand_in: tuple[StandIn, float], capsys: pytest.CaptureFixture[str]
) -> None:
    model, expected = stand_in
    count = 2 if expected == OWN else 1
    origin = "the largest F1 in the model's validation" if expected == OWN else "the default, as the model has none"
    assert main(["predict", "RUN", "a.png", "--out", "again"]) == 0
    assert f"predictions.csv: the {count} objects of score {expected} or more ({origin}" in capsys.readouterr().out
    assert main(["data", "prelabel", "RUN", "found", "labels.json"]) == 0
    assert f"labels.json: {count} objects of score {expected} or more ({origin}" in capsys.readouterr().out
    assert len(json.loads(Path("labels.json").read_text())["annotations"]) == count
    assert prelabel("found", model, "same.json") == (count, "cells", expected)  # type: ignore[arg-type]


@pytest.mark.integration
@pytest.mark.parametrize("own", (True, False))
def test_python_windows_engines_and_files_have_the_threshold_of_the_model(own: bool, tmp_path: Path) -> None:
    """Of a model with many scores around the threshold. A file of either kind: with post-processing, and without."""
    torch.manual_seed(0)
    transformer = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}
    head = {"name": "detr", "num_queries": 40, "transformer": transformer}
    predictor = evaluated_at(densevit.create_model(FOUR_MAPS, {"cells": head}, {"cells": ["a"]}), 96)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with torch.no_grad():
        for name, value in predictor.heads["cells"].named_parameters():
            value.copy_(torch.randn_like(value) * (8 if "query" in name else 1.0))
        found = predictor.predict(image, threshold=0)
        predictor.heads["cells"].label_head.bias[0] -= found.scores.logit().median() + 2e-3
    expected = 0.52 if own else 0.5
    predictor.score_thresholds = {"cells": expected} if own else {}
    whole = predictor.predict(image, threshold=0).scores  # around a half
    assert 0 < (whole >= expected).sum() < len(whole)
    densevit.save(predictor, tmp_path / "model.safetensors")
    densevit.export(predictor, tmp_path / "model.onnx", postprocess=own)
    loaded, file = (densevit.load(tmp_path / f"model.{kind}", trust=True) for kind in ("safetensors", "onnx"))
    for found in (*predictor.predict([image, image]), loaded.predict(image), file.predict(image)):
        assert found.thresholds == {"cells": pytest.approx(expected)}
        assert len(found.scores) == (whole >= expected).sum()
    windows, every = (loaded.predict(image, least, inference={"window": 64}) for least in (None, 0))
    assert windows.thresholds == {"cells": expected}
    assert len(windows.scores) == (every.scores >= expected).sum() < len(every.scores)
    [row] = BatchPredictor(str(tmp_path / "model.safetensors"), device="cpu", trust=True)({"image": [image]})["score"]
    assert len(row) == (whole >= expected).sum()


# ---- predictions are of the model ----


@pytest.mark.parametrize(
    "command",
    [["predict", "RUN", "a.png", "--out", "found", "--resume"], ["data", "prelabel", "RUN", "found", "labels.json"]],
    ids=["resume", "prelabel"],
)
@pytest.mark.parametrize("stand_in", ["own"], indirect=True)
def test_predictions_of_another_model_are_refused(
    command: list[str], stand_in: tuple[StandIn, float], capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = stand_in
    assert main([word.replace("RUN", "./RUN") for word in command]) == 0  # the same weights
    settings = json.loads(Path("found/predict.json").read_text())
    Path("found/predict.json").write_text(json.dumps({**settings, "model": "RUN"}))
    model.score_thresholds = {}
    next(model.parameters()).data += 1
    assert main([word.replace("RUN", "other") for word in command]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "found has predictions of another model" in said and "'RUN'" in said and "'other'" in said
