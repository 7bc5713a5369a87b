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
from densevit.config import EvaluationSection
from densevit.data.transforms.default import DefaultTransforms
from densevit.evaluation import tables_file
from densevit.interfaces import Class, Evaluator
from densevit.model import DenseModel
from densevit.targets import RunLengthMasks
from densevit.training.loop.evaluator_factory import build_evaluators
from densevit_batch.batch_predictor import BatchPredictor
from densevit_batch.prelabels import prelabel
from tests.cli.stand_in import StandIn, dog_and_cat, read
from tests.small_models import FOUR_MAPS

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
    section: Any = SimpleNamespace(evaluation=EvaluationSection())
    model.sections = SimpleNamespace(heads={"cells": section})  # type: ignore[assignment]
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
    evaluator: Evaluator = build_evaluators(model, data)["cells"]
    found, truth = found_and_truth()
    evaluator.update([found], [truth])
    tables_file.write_tables({"cells": evaluator}, tmp_path, {}, model.default_thresholds)
    counted = expected <= SHIFTED
    header, *rows = tables_file.read_values(tmp_path / f"{table}-cells.csv")
    assert header[0] == f"truth \\ prediction, scores from {expected}"
    assert [row[1:] for row in rows] == [[int(counted), int(not counted)], [0, 0]]
    assert tables_file.read_thresholds(tmp_path) == {"cells": expected}
    if name != "panoptic":
        assert tables_file.read_values(tmp_path / "images-cells.csv")[1:] == [["1", 1, float(counted)]]


def two_objects(height: int, width: int) -> Any:
    """Objects with scores of 0.75 and 0.46."""
    return {**dog_and_cat(height, width), "scores": torch.tensor([0.75, SHIFTED])}


@pytest.fixture
def stand_in(cwd: Path, load_as: Any) -> Any:
    """The model of commands, beside an image."""
    Image.new("RGB", (40, 30)).save("a.png")
    return load_as(StandIn(("cells",), two_objects))


PREDICT = ("predict", "RUN", "a.png", "--out", "found")
PRELABEL = ("data", "prelabel", "RUN", "found", "labels.json")


@pytest.mark.parametrize(
    ("own", "count", "origin"),
    [("own", 2, "the largest F1 in the model's validation"), ("none", 1, "the default, as the model has none")],
)
def test_predict_and_prelabel_have_one_default_and_name_it(own, count, origin, stand_in, run) -> None:
    stand_in.score_thresholds, expected = MODELS[own]
    for words, file in ((PREDICT, "predictions.csv: the"), (PRELABEL, "labels.json:")):
        assert f"{file} {count} objects of score {expected} or more ({origin}" in run(*words)
    assert len(read("labels.json")["annotations"]) == count
    assert prelabel("found", stand_in, "same.json") == (count, "cells", expected)


@pytest.mark.integration
@pytest.mark.parametrize("own", (True, False))
def test_python_windows_engines_and_files_have_the_threshold_of_the_model(own: bool, tmp_path: Path) -> None:
    """Of a model with many scores around the threshold. The file has post-processing inside."""
    transformer = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}
    head = {"name": "detr", "num_queries": 40, "transformer": transformer}
    predictor = densevit.create_model(FOUR_MAPS, {"cells": head}, {"cells": ["a"]}).with_resize(DefaultTransforms(96))
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
    models = [predictor, loaded := densevit.load(tmp_path / "model.safetensors", trust=True)]
    if own:
        densevit.export(predictor, tmp_path / "model.onnx", postprocess=True)
        models.append(densevit.load(tmp_path / "model.onnx", trust=True))
    for found in (model.predict(image) for model in models):
        assert found.thresholds == {"cells": pytest.approx(expected)}
        assert len(found.scores) == (whole >= expected).sum()
    windows, every = (loaded.predict(image, least, inference={"window": 64}) for least in (None, 0))
    assert windows.thresholds == {"cells": expected}
    assert len(windows.scores) == (every.scores >= expected).sum() < len(every.scores)
    [row] = BatchPredictor(str(tmp_path / "model.safetensors"), device="cpu", trust=True)({"image": [image]})["score"]
    assert len(row) == (whole >= expected).sum()


# ---- predictions are of the model ----


@pytest.mark.parametrize("command", [(*PREDICT, "--resume"), PRELABEL], ids=["resume", "prelabel"])
def test_predictions_of_another_model_are_refused(command: tuple[str, ...], stand_in: Any, run: Any) -> None:
    run(*PREDICT)
    run(*(word.replace("RUN", "./RUN") for word in command))  # the same weights
    Path("found/predict.json").write_text(json.dumps({**read("found/predict.json"), "model": "RUN"}))
    next(stand_in.parameters()).data += 1
    said = run(*(word.replace("RUN", "other") for word in command), code=2)
    assert "found has predictions of another model" in said and "'RUN'" in said and "'other'" in said
