"""Self-training: labels of a teacher's predictions by hand, their file, and a training with a class more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.data.datasets.coco_annotations import read_annotations
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit_methods.pseudo_labels import PseudoLabelled, write_predictions
from tests.counted_dataset import CountedDataset
from tests.data.coco_folder import noise, write_split
from tests.small_models import Pixels, StandIn
from tests.training.runs import without_report

CLASSES = tuple(Class(name, n, (n, 0, 0)) for n, name in enumerate(("cat", "dog", "bird"), 1))


class OneImage(CountedDataset):
    """A bird at the corner of an image of 30x60 pixels in which only birds are labelled."""

    classes, provides = {"detection": CLASSES}, ("boxes", "labels", "labelled")

    def __getitem__(self, index):
        targets = {
            "image_id": 7,
            "boxes": torch.tensor([[0.0, 0, 10, 10]]),
            "labels": torch.tensor([2]),
            "area": torch.tensor([100.0]),
            "iscrowd": torch.tensor([False]),
            "labelled": ["bird"],
        }
        return {"image": torch.zeros(3, 30, 60, dtype=torch.uint8), "targets": targets}


def file_of(path: Path, objects: list[tuple[int, list[float]]]) -> Path:
    """A file of `write_predictions`. objects: category and `bbox`."""
    rows = [{"id": n, "image_id": 7, "category_id": c, "bbox": b, "score": 0.25} for n, (c, b) in enumerate(objects)]
    names = {5: "cat", 6: "dog", 7: "bird", 8: "fox"}
    document: dict[str, Any] = {
        "images": [{"id": 7, "height": 30, "width": 60}],
        "annotations": rows,
        "categories": [{"id": c, "name": name} for c, name in names.items()],
    }
    path.write_text(json.dumps(document))
    return path


def test_predictions_label_the_classes_that_are_not_labelled(tmp_path: Path):
    """A cat; a cat at the bird; a bird, which is labelled; a fox, which is no class of the data. No dog."""
    at_bird, elsewhere = [0.0, 0, 10, 9], [20.0, 10, 10, 20]
    objects = [(5, elsewhere), (5, at_bird), (7, elsewhere), (8, elsewhere)]
    dataset = PseudoLabelled(OneImage(), file_of(tmp_path / "file.json", objects), CLASSES)
    targets = dataset[0]["targets"]
    assert targets["boxes"].tolist() == [[0, 0, 10, 10], [20, 10, 30, 30]] and targets["labels"].tolist() == [2, 0]
    assert targets["area"].tolist() == [100, 200] and targets["iscrowd"].tolist() == [False, False]
    assert targets["labelled"] == ["cat", "dog", "bird"] and targets["label_weights"].tolist() == [1, 0.25]
    dataset.teacher_classes -= {"cat"}
    assert dataset[0]["targets"]["labels"].tolist() == [2] and dataset[0]["targets"]["labelled"] == ["dog", "bird"]
    assert dataset.classes == {"detection": CLASSES} and len(dataset) == 1


def test_predictions_are_a_coco_json_with_scores(tmp_path: Path):
    """From the teacher's threshold on."""
    boxes, scores = torch.tensor([[2.0, 3, 12, 23], [0, 0, 5, 5]]), torch.tensor([0.375, 0.125])
    prediction = {"boxes": boxes, "scores": scores, "labels": torch.tensor([1, 0])}
    teacher = densevit.create_model(Pixels(), {"x": StandIn(CLASSES, lambda target: prediction)}, [*CLASSES])
    teacher.score_thresholds = {"x": 0.25}
    write_predictions(teacher.eval(), "x", OneImage(), tmp_path / "file.json")
    read = read_annotations(tmp_path / "file.json")
    assert read.image_ids.tolist() == [7] and read.boxes.tolist() == [[2, 3, 12, 23]] and read.area.tolist() == [200]
    assert [c.name for c in read.classes] == ["cat", "dog", "bird"] and read.labels.tolist() == [1]
    assert json.loads((tmp_path / "file.json").read_text())["annotations"][0]["score"] == 0.375


CONFIG: dict[str, Any] = {
    "backbone": {"name": "swin", "variant": "nano", "window_size": 4},
    "heads": {"detection": {"name": "one_stage", "width": 16, "fusion_blocks": 0}},
    "data": {"name": "coco", "image_size": 32, "batch_size": 2, "num_workers": 0, "transforms": "resize"},
    "trainer": {"max_steps": 2, "precision": "32", "accelerator": "cpu", "evaluations": 1},
}


@pytest.mark.integration
def test_a_class_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The model has the old classes first. Without the method, a line says that they are forgotten."""
    for split, seed in (("train", 0), ("val", 4)):
        objects = [{"image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "id": n + 1} for n in range(2)]
        write_split(tmp_path, split, [noise(seed + n, 32, 32) for n in range(2)], objects, [{"id": 1, "name": "bird"}])
    torch.manual_seed(0)
    old = densevit.create_model(CONFIG["backbone"], CONFIG["heads"], {"detection": ["cat", "dog"]})
    old.score_thresholds = {"detection": 0.0}
    densevit.save(old, tmp_path / "old.safetensors")
    keys = {"weights": str(tmp_path / "old.safetensors"), "data.root": str(tmp_path), "data.labelled_classes": "new"}
    with without_report():
        densevit.fit(CONFIG, keys, run_dir=tmp_path / "plain")
        assert "are not labelled, and are forgotten" in capsys.readouterr().out
        run = densevit.fit(CONFIG, {**keys, "method": "self_training"}, run_dir=tmp_path / "more")
        assert "forgotten" not in capsys.readouterr().out
        file = run.path / "pseudo_labels.json"
        written = file.stat().st_mtime_ns
        densevit.fit(None, {"trainer.max_steps": 3}, resume=run.path)
    assert file.stat().st_mtime_ns == written and json.loads(file.read_text())["annotations"]
    assert [(c.name, c.file_id) for c in run.model.classes["detection"]] == [("cat", 0), ("dog", 1), ("bird", 2)]
    assert np.isnan(run.metrics["detection/AP/cat"])
    assert densevit.evaluate(run.path)["detection/AP/bird"] == run.metrics["detection/AP/bird"] >= 0


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ({"name": "one_stage"}, {}, "method.teacher is missing. Fix: teacher=RUN"),
        ({"name": "setr"}, {"teacher": "run"}, "heads.x needs semantic; the method self_training predicts boxes"),
    ],
)
def test_invalid_use_names_the_fix(head: dict[str, Any], options: dict[str, Any], message: str):
    model = densevit.create_model({"name": "resnet", "depth": 18}, {"x": head}, ["a"])
    with pytest.raises(ConfigError, match=message):
        densevit.create_method("self_training", model, **options)
