"""densevit/evaluation/overrides.py: the resizing of an evaluation."""

from densevit import config
from densevit.evaluation.overrides import resizing_for, with_resizing


def test_an_evaluation_keeps_the_resizing_of_training_but_for_files_of_the_user(tmp_path):
    trained = config.section("data", {"name": "scenes", "image_size": 96, "transforms": "resize"}, "x")
    file = tmp_path / "sizes.yaml"
    file.write_text("name: coco\nimage_size: 64\n")
    for data, is_kept in ((tmp_path, True), (str(tmp_path), True), ("coco", True), (str(file), False), ({}, False)):
        assert resizing_for(data, trained).get("data.image_size") == (96 if is_kept else None), data
    assert with_resizing([f"data={tmp_path}", "data.transforms=detr"], trained)[2:] == [("data.image_size", 96)]
    assert with_resizing({"data": tmp_path}, None) == [("data", tmp_path)]
