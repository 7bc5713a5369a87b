"""One score threshold everywhere: that of the model's validation, 0.5 for a model without one."""

import ast
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit import registry
from densevit.cli import main
from densevit.evaluation import tables_file
from densevit.exporting import postprocessing
from densevit.interfaces import DEFAULT_THRESHOLD, Class, Evaluator
from densevit.model import DenseModel
from densevit.reporting.report import write_report
from densevit.targets import RunLengthMasks
from densevit.training.loop.evaluators import build_evaluators, create_evaluator
from densevit.training.run.drawn_images import draw_images
from densevit_scenes.dataset import Scenes
from densevit_workbench.interchange.prelabels import write_prelabels
from tests.cli.test_predict import StandIn

OWN = 0.4485
CLASSES = (Class("cell", 1, (250, 10, 20)),)
SHIFTED = 46 / 100  # between the two


class Detecting:
    """A head as far as evaluators and visualizations look at it."""

    task = "detection"
    target_types = None

    def predict(self) -> None: ...


def bare(own: dict[str, float]) -> DenseModel:
    """A model without parameters, whose head detects."""
    model = DenseModel.__new__(DenseModel)
    torch.nn.Module.__init__(model)
    model.heads = {"cells": Detecting()}  # type: ignore[assignment,dict-item]
    model.classes, model.score_thresholds = {"cells": CLASSES}, own
    return model


MODELS = {"own": ({"cells": OWN}, OWN), "none": ({}, 0.5)}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[DenseModel, float]:
    own, expected = MODELS[request.param]
    return bare(own), expected


# ---- no other default ----

OTHER = {  # of probabilities and maps, not of objects
    ("plugins/densevit_papers/kmax_deeplab.py", "stuff_threshold"),
    ("densevit/interfaces/evaluators.py", "DEFAULT_THRESHOLD"),
    ("densevit/evaluation/error_analysis.py", "FOREGROUND"),
}


def thresholds_in(tree: ast.AST) -> Iterator[str]:
    """What is 0.5 by default, and has a name of a score or a threshold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            pairs = [*zip(reversed(positional), reversed(node.args.defaults), strict=False)]
            pairs += [
                (arg, value) for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value
            ]
            yield from (arg.arg for arg, value in pairs if half(value))
        elif isinstance(node, ast.Assign):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if any(map(half, values)):
                yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))
        elif isinstance(node, ast.Call):
            words = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            values = [*node.args, *(one.value for one in node.keywords)]
            values += [one for value in values if isinstance(value, ast.List) for one in value.elts]
            if any(map(half, values)):
                yield from words
                if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                    yield "threshold"  # a value in place of a missing one
                yield from (one.arg for one in node.keywords if one.arg and half(one.value))


def half(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (0.5, "0.5")


@pytest.mark.parametrize("folder", ["densevit", "plugins", "tools", "examples"])
def test_no_threshold_of_scores_is_another_default(folder: str) -> None:
    found = {
        (path.as_posix(), name)
        for path in sorted(Path(folder).rglob("*.py"))
        for name in thresholds_in(ast.parse(path.read_text(encoding="utf-8")))
        if any(word in name.lower() for word in ("threshold", "score", "shown", "drawn", "foreground"))
    }
    assert found - OTHER == set()


# ---- the places ----


def counting() -> list[str]:
    """The registered evaluators that count objects from a score."""
    return [name for name in registry.find("evaluators") if registry.load("evaluators", name).threshold is not None]


def found_and_truth() -> tuple[dict[str, Any], dict[str, Any]]:
    """An object, and a correct prediction with a score between the model's own threshold and 0.5."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 2:12, 2:12] = True
    values = {"boxes": torch.tensor([[2.0, 2, 12, 12]]), "labels": torch.tensor([0]), "masks": mask}
    values["panoptic"] = torch.where(mask[0], 0, -1)
    truth = {**values, "image_id": 1, "masks": RunLengthMasks.from_dense(mask, (20, 20))}
    return {**values, "scores": torch.tensor([SHIFTED])}, truth


def test_evaluators_that_count_objects_are_known() -> None:
    assert {"detection", "coco_masks"} <= {*counting()}
    assert create_evaluator("panoptic", CLASSES).threshold == DEFAULT_THRESHOLD


@pytest.mark.parametrize("name", ["panoptic", *counting()])
def test_evaluators_count_the_objects_of_predict(name: str, case: tuple[DenseModel, float], tmp_path: Path) -> None:
    """Which are in the confusion matrix, in image scores, and named by files and the report."""
    model, expected = case
    model.heads["cells"].task = name
    data: Any = SimpleNamespace(classes={"detection": CLASSES}, provides=("boxes", "masks"))
    evaluator: Evaluator = build_evaluators(model, None, data)["cells"]
    assert evaluator.threshold == expected
    evaluator.score_threshold()  # what is computed without a threshold stays valid
    found, truth = found_and_truth()
    evaluator.update([found], [truth])
    counted = expected <= SHIFTED
    tables = evaluator.tables()
    [key] = [key for key, rows in tables.items() if key.endswith("confusion") and "scores" in rows[0][0]]
    assert tables[key][0][0] == f"truth \\ prediction, scores from {expected}"
    assert [row[1:] for row in tables[key][1:]] == [[int(counted), int(not counted)], [0, 0]]
    if name != "panoptic":
        assert evaluator.image_scores() == {1: float(counted)}
    tables_file.write_tables({"cells": evaluator}, tmp_path, {})
    assert tables_file.read_thresholds(tmp_path) == {"cells": expected}
    (tmp_path / "metrics.json").write_text('{"cells/AP": 0.5}')
    (tmp_path / "predictions" / "worst").mkdir(parents=True)
    for image in ("cells-1.jpg", "worst/cells-1-1.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "predictions" / image)
    page = write_report(tmp_path).read_text()
    assert f"(scores from {expected})" in page
    assert page.count(f"Boxes and masks are drawn and counted from a score of {expected} (cells).") == 2


def test_visualizations_of_runs_show_the_objects_of_predict(
    case: tuple[DenseModel, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, expected = case
    drawn: list[float] = []

    def draw(image: Any, found: Any, classes: Any, threshold: float, **options: Any) -> np.ndarray:
        drawn.append(threshold)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("densevit.drawing.samples.draw", draw)
    (tmp_path / "images-cells.csv").write_text("image,image_id,score\n0,0,0.5\n1,1,0.6\n")
    predictor: Any = SimpleNamespace(
        heads=model.heads, classes=model.classes, target_types={}, default_thresholds=model.default_thresholds,
        predict=lambda *_, **__: SimpleNamespace(heads={"cells": {}}),
    )  # fmt: skip
    data: Any = SimpleNamespace(val=Scenes("val", image_size=32, val_length=2))
    draw_images(predictor, data, tmp_path, {0: 0, 1: 1})
    assert drawn == [expected] * 4  # two samples, the worst and the best


def test_exported_files_select_the_objects_of_predict(
    case: tuple[DenseModel, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, expected = case
    monkeypatch.setattr(postprocessing, "_heads_with_scores", lambda *_: ["cells"])
    found = postprocessing.thresholds_of(None, (8, 8), None, model.default_thresholds)  # type: ignore[arg-type]
    assert found == {"cells": expected}


@pytest.fixture
def stand_in(case: tuple[DenseModel, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[StandIn, float]:
    """The command's model, an image, and the folder of its predictions: objects with scores of 0.75 and 0.46."""
    model = StandIn(("cells",))
    model.score_thresholds = dict(case[0].score_thresholds)
    see = model.see

    def seen(height: int, width: int) -> Any:
        return {**see(height, width), "scores": torch.tensor([0.75, SHIFTED])}

    monkeypatch.setattr(model, "see", seen)
    monkeypatch.setattr("densevit.inference.loading.load", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("a.png")
    assert main(["predict", "RUN", "a.png", "--out", "found"]) == 0
    return model, case[1]


def test_predict_and_prelabel_have_one_default_and_name_it(
    stand_in: tuple[StandIn, float], capsys: pytest.CaptureFixture[str]
) -> None:
    model, expected = stand_in
    count = 2 if expected == OWN else 1
    origin = (
        "the largest F1 in the model's validation" if expected == OWN else "the default, because the model has none"
    )
    assert main(["predict", "RUN", "a.png", "--out", "again"]) == 0
    assert f"predictions.csv: the {count} objects of score {expected} or more ({origin}" in capsys.readouterr().out
    assert main(["data", "prelabel", "RUN", "found", "labels.json"]) == 0
    assert f"labels.json: {count} objects of score {expected} or more ({origin}" in capsys.readouterr().out
    assert len(json.loads(Path("labels.json").read_text())["annotations"]) == count
    assert write_prelabels("found", model, "same.json") == (count, "cells", expected)  # type: ignore[arg-type]


def test_serving_has_the_default_and_names_it(case: tuple[DenseModel, float], project: Path) -> None:
    spec = importlib.util.spec_from_file_location("serving", project / "examples" / "serving.py")
    assert spec is not None and spec.loader is not None
    serving = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serving)
    given: list[Any] = []

    def predict(images: list[bytes], threshold: Any, batch_size: int) -> list[Any]:
        given.append(threshold)
        return [None] * len(images)

    model, expected = case
    batches = serving.Batches(SimpleNamespace(default_thresholds=model.default_thresholds, predict=predict))
    batches.results([b"image"], None)
    batches.results([b"image"], 0.3)
    assert given == [{"cells": expected}, 0.3]
    found = SimpleNamespace(names=["cell"], scores=torch.tensor([SHIFTED]), boxes=torch.zeros(1, 4))
    part: Any = type("Part", (dict,), {})(boxes=found.boxes, scores=found.scores)
    part.names, part.scores, part.boxes = found.names, found.scores, found.boxes
    result = SimpleNamespace(size=(8, 9), thresholds={"cells": expected}, heads={"cells": part})
    assert serving.answer(result)["thresholds"] == {"cells": expected}


def test_inspected_objects_are_those_of_predict(case: tuple[DenseModel, float]) -> None:
    from densevit_workbench.inspection.inspect import _objects

    model, expected = case
    found = {"scores": torch.tensor([0.75, SHIFTED, 0.4]), "boxes": torch.zeros(3, 4), "labels": torch.zeros(3)}
    shown = _objects(torch.zeros(3, 2, 2), found, CLASSES, (1.0, 1.0), model.default_thresholds["cells"])
    assert len(shown) == (2 if expected == OWN else 1)


# ---- predictions are of the model ----


@pytest.mark.parametrize(
    "command",
    [["predict", "RUN", "a.png", "--out", "found", "--resume"], ["data", "prelabel", "RUN", "found", "labels.json"]],
    ids=["resume", "prelabel"],
)
def test_predictions_of_another_model_are_refused(
    command: list[str], stand_in: tuple[StandIn, float], capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = stand_in
    assert main([word.replace("RUN", "./RUN") for word in command]) == 0  # the same weights
    settings = json.loads(Path("found/predict.json").read_text())
    Path("found/predict.json").write_text(json.dumps({**settings, "model": "RUN"}))
    model.fingerprint = "another"
    assert main([word.replace("RUN", "other") for word in command]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "found has the predictions of another model: of 'RUN', whose classes or weights are not those of 'other'"
        in said
    )
    Path("found/predict.json").unlink()
    assert main(command) == 2
    assert "found has no predict.json" in " ".join(capsys.readouterr().err.split())


def test_fingerprints_tell_weights_and_classes_apart() -> None:
    def model(seed: int, name: str = "cell", size: int = 40) -> DenseModel:
        made = bare({})
        made.classes = {"cells": (Class(name, 1, (0, 0, 0)),)}
        torch.manual_seed(seed)
        made.layer = torch.nn.Linear(size, 3)
        return made

    first = model(0).fingerprint()
    assert len(first) == 16 and first == model(0).fingerprint()
    assert first not in (model(1).fingerprint(), model(0, "other").fingerprint())
    assert first == model(0).requires_grad_(False).fingerprint()
