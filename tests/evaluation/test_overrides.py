"""densevit/evaluation/overrides.py: other data are read and resized as in training."""

from types import SimpleNamespace
from typing import Any

import pytest

from densevit import config
from densevit.evaluation.overrides import evaluation_overrides
from densevit.interfaces import as_classes


def test_an_evaluation_keeps_the_resizing_of_training_but_for_files_of_the_user(tmp_path):
    trained = config.section("data", {"name": "scenes", "image_size": 96, "transforms": "resize"}, "x")
    file = tmp_path / "sizes.yaml"
    file.write_text("name: coco\nimage_size: 64\n")
    for data, is_kept in ((tmp_path, True), (str(tmp_path), True), ("coco", True), (str(file), False), ({}, False)):
        changes = dict(evaluation_overrides({"data": data}, trained))
        assert changes.get("data.image_size") == (96 if is_kept else None), data
    overrides = [f"data={tmp_path}", "data.transforms=detr"]
    assert evaluation_overrides(overrides, trained) == [*overrides, ("data.image_size", 96)]
    assert evaluation_overrides({"data": tmp_path}, None) == [("data", tmp_path)]


def test_a_folder_is_the_root_of_data_like_those_of_training(tmp_path):
    """Without what belongs to the training's folder: shares of its images, and absolute paths."""
    options = {"root": "a", "val_share": 0.2, "images": "{split}/*.jpg", "labels": f"{tmp_path}/{{split}}/*.png"}
    trained = config.section("data", {"name": "depth", "image_size": 96, **options}, "x")
    overrides = ["trainer.devices=1", f"data={tmp_path}", "data.image_size=64"]
    implied = [("data.val_share", None), ("data.labels", None), ("data.root", str(tmp_path))]
    assert evaluation_overrides(overrides, trained) == [overrides[0], overrides[2], *implied]
    assert ("data.labels", None) not in evaluation_overrides([*overrides, "data.labels=b"], trained)
    assert evaluation_overrides(["data=coco"], trained)[0] == "data=coco"


def test_the_unit_of_files_is_that_of_the_training_s_folder_alone(tmp_path):
    (tmp_path / "a").mkdir()
    trained = config.section("data", {"name": "depth", "root": str(tmp_path / "a"), "scale": 0.001}, "x")
    assert ("data.scale", None) in evaluation_overrides({"data": tmp_path}, trained)
    assert ("data.scale", None) not in evaluation_overrides([f"data={tmp_path}/b/../a"], trained)
    assert ("data.scale", None) not in evaluation_overrides([f"data={tmp_path}", "data.scale=0.01"], trained)


def test_the_heads_decide_how_a_folder_is_read_if_the_training_s_data_have_none(tmp_path):
    """Or are unknown, unless a data set is named. Classes are the model's where the folder names none."""
    trained = config.section("data", {"name": "scenes", "image_size": 96, "transforms": "resize"}, "x")

    def changes(*keys: str, data: Any = trained, overrides: Any = (f"data={tmp_path}",)) -> Any:
        heads = {"a": SimpleNamespace(required_targets=keys)}
        model: Any = SimpleNamespace(heads=heads, classes={"a": as_classes(["road", "sky"])})
        return evaluation_overrides([*overrides], data, model)

    root, maps = ("data.root", str(tmp_path)), ("data.name", "label_maps")
    with pytest.warns(UserWarning, match=r"is read as data\.name=label_maps .*, by the labels that the model predicts"):
        found = changes("semantic")
    resizing = [("data.image_size", 96), ("data.transforms", {"name": "resize"})]
    assert found == [maps, root, ("data.classes", ["road", "sky"]), *resizing]
    with pytest.warns(UserWarning, match=r"data\.classes=the model's"):
        assert changes("semantic", data=None) == [maps, root, ("data.classes", ["road", "sky"])]
    with pytest.warns(UserWarning, match=r"data\.name=depth"):
        assert changes("depth")[:2] == [("data.name", "depth"), root]
    assert changes("boxes", "labels") == [f"data={tmp_path}", *resizing]
    typed = [f"data={tmp_path}", "data.name=label_maps"]
    assert changes("semantic", overrides=typed) == [*typed, *resizing]
