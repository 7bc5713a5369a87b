"""densevit/cli/evaluate.py with fakes for the model, the data and the evaluation."""

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
from densevit.channels import RGB
from densevit.cli import main
from densevit.data import data_builder
from densevit.evaluation.coco_ap import CocoDetection
from densevit.evaluation.miou import SemanticSegmentation
from densevit.inference import model_loading
from densevit.interfaces import Class, Dataset, Evaluator
from tests.small_models import StandIn

CLASSES = (Class("cat", 17, (250, 10, 20)), Class("dog", 18, (20, 30, 240)))
CONFIG = "backbone: {name: swin}\nheads: {detection: {name: detr}}\ndata: {name: scenes}\ntrainer: {max_steps: 1}\n"


class Split(Dataset):
    provides = ("boxes", "labels", "semantic")

    def __init__(self, classes: Any) -> None:
        self.classes = {"detection": classes}

    def __len__(self) -> int:
        return 7

    def image_name(self, index: int) -> str:
        return f"street/{index}.jpg"


def fake_data(classes: Any) -> Any:
    kept: list[Any] = []
    data = SimpleNamespace(val=Split(classes), use_classes=kept.append, kept=kept)

    def padded_to(size_divisor: int, val_transform: None) -> Any:
        data.size_divisor = size_divisor
        return data

    data.padded_to = padded_to
    return data


@pytest.fixture
def seen(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run folder `run` in the working directory; records the arguments that the command passes on."""
    from densevit.training.run import evaluation_folder
    from densevit.training.run.evaluation import EvaluationPlan

    Path("run").mkdir()
    Path("run/config.yaml").write_text(CONFIG)
    config = configs.load(Path("run/config.yaml"))
    heads = {"detection": StandIn(CLASSES)}
    model = SimpleNamespace(
        default_thresholds={"detection": 0.5},
        backbone=SimpleNamespace(input_size=None),
        recorded_evaluation=None,
        padding=16,
        channels=RGB,
        classes={"detection": CLASSES},
        heads=heads,
        target_types={},
        config=config,
        training_data=config.data,
        replaced_resize=None,
    )
    model.with_config = lambda config: vars(model).update(config=config) or model
    data = fake_data(CLASSES)

    seen: dict[str, Any] = {"data": data, "model": model}

    def build_data(config: configs.Config) -> Any:
        seen.update(config=config)
        return seen["data"]

    def evaluate(plan: EvaluationPlan, write: Any) -> SimpleNamespace:
        assert (plan.model, plan.data, plan.trainer) == (model, seen["data"], seen["config"].trainer)
        seen.update(mappings=plan.mappings, size_divisor=plan.data.size_divisor)
        if "semantic" in seen:
            metrics, evaluators = seen["semantic"](write)
            return SimpleNamespace(metrics=metrics, evaluators=evaluators, indices={})
        evaluator = CocoDetection(CLASSES)
        box, one = torch.tensor([[0.0, 0, 50, 50]]), torch.ones(1, dtype=torch.long)
        evaluator.update(
            [{"boxes": box, "scores": torch.ones(1), "labels": one}], [{"image_id": 139, "boxes": box, "labels": one}]
        )
        metrics = {f"detection/{name}": value for name, value in evaluator.metrics().items()}
        return SimpleNamespace(metrics=metrics, evaluators={"detection": evaluator}, indices={139: 0})

    fakes: list[tuple[Any, str, Any]] = [
        (model_loading, "load_any", lambda run, trust, runtime: (model, False)),
        (data_builder, "build_data", build_data),
        (EvaluationPlan, "run", evaluate),
        (evaluation_folder, "draw_images", lambda *given: None),
    ]
    for part, name, fake in fakes:
        monkeypatch.setattr(part, name, fake)
    return seen


def test_evaluate_prints_a_table_and_writes_metrics_and_detections(seen, run):
    row = "AP 1.0000 AP50 1.0000 AP75 1.0000 APs – APm 1.0000 APl –"
    assert row in run("evaluate", "run", "--out", "out/deep") and seen["size_divisor"] == 16
    metrics = json.loads(Path("out/deep/metrics.json").read_text())
    assert metrics["detection/APs"] is None and metrics["detection/AP/cat"] is None
    assert math.isclose(metrics["detection/AP"], 1)
    assert json.loads(Path("out/deep/detections.json").read_text()) == [
        {"image_id": 139, "category_id": 18, "bbox": [0, 0, 50, 50], "score": 1}
    ]
    found = json.loads(run("evaluate", "run", "--json", "--out", "out2"))
    assert found["metrics"]["detection/AP50"] == pytest.approx(1) and found["folder"] == "out2"
    assert "run is not empty" in run("evaluate", "run", "--out", "run", code=2)


def test_label_maps_and_the_confusion_matrix_are_written(seen: dict[str, Any]):
    """Evaluators and the writer get each map; written values are the classes' file ids."""
    found, truth = np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 255]], np.uint8)

    def evaluate(write: Any) -> tuple[dict[str, float], dict[str, Evaluator]]:
        evaluator = SemanticSegmentation(CLASSES)
        evaluator.update([{"semantic": found}], [{"image_id": "town/1", "semantic": truth}])
        write("detection", "town/1", {"semantic": found})
        return {"detection/mIoU": evaluator.metrics()["mIoU"]}, {"detection": evaluator}

    seen["semantic"] = evaluate
    assert main(["evaluate", "run", "--out", "out"]) == 0
    assert np.array(Image.open("out/semantic/town/1.png")).tolist() == [[17, 18, 18]]
    assert Path("out/confusion-detection.csv").read_text().splitlines() == [
        "truth \\ prediction,cat,dog",
        "cat,1,1",
        "dog,0,0",
    ]


def test_overrides_change_the_data_but_not_the_model(seen: dict[str, Any], run):
    run("evaluate", "run", "data.batch_size=3", "heads.detection.evaluation.max_detections=300")
    assert seen["config"].data.batch_size == 3
    assert seen["config"].heads["detection"].evaluation.options == {"max_detections": 300}
    for override in ("backbone.variant=base", "heads.detection.num_queries=3", "weights=x", "heads.other.name=detr"):
        assert f"{override}: the model exists, and cannot change" in run("evaluate", "run", override, code=2)


def test_a_folder_as_data_is_resized_as_in_training_unless_overridden(seen: dict[str, Any], run, tmp_path: Path):
    Path("run/config.yaml").write_text(CONFIG.replace("scenes}", "scenes, image_size: 96}"))
    seen["model"].training_data = configs.load(Path("run/config.yaml")).data
    for overrides, size in (([], 96), (["data.image_size=65"], 65)):
        run("evaluate", "run", f"data={tmp_path}", *overrides)
        data = seen["config"].data
        assert (data.name, data.options["root"], data.image_size) == ("coco", str(tmp_path), size)


def test_classes_are_mapped_by_name_and_by_given_names(seen: dict[str, Any], run):
    seen["data"] = fake_data(CLASSES[::-1])
    assert "2 of the model's 2 classes are mapped" in run("evaluate", "run", "--out", "out")
    assert seen["mappings"]["detection"].indices == (1, 0) and seen["data"].kept == [{"detection": [0, 1]}]
    assert Path("out/class-mapping-detection.csv").read_text().splitlines() == ["model,data", "cat,cat", "dog,dog"]
    seen["data"] = fake_data(tuple(Class(name, n, (0, 0, 0)) for n, name in enumerate(("wolf", "Dog", "tree"))))
    run("evaluate", "run", "--map", "dog=wolf", "--out", "a")
    assert seen["mappings"]["detection"].pairs == [("dog", "wolf")]
    Path("names.yaml").write_text("cat: wolf\n")
    run("evaluate", "run", "--map", "names.yaml", "--out", "b")
    assert seen["mappings"]["detection"].pairs == [("cat", "wolf"), ("dog", "Dog")]


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("tree", "sky"), [], "Classes of the data: tree, sky. Classes of the model: cat, dog."),
        (("cat", "sky"), ["--map", "dgo=sky"], "no class 'dgo'. Did you mean 'dog'?"),
    ],
)
def test_wrong_mappings_name_both_lists(seen, run, names, given, message):
    seen["data"] = fake_data(tuple(Class(name, n, (0, 0, 0)) for n, name in enumerate(names)))
    assert message in run("evaluate", "run", *given, code=2)
