"""Which keys of a section `data` determine the images of an evaluation."""

from densevit.config import DataSection
from densevit_workbench.reports.evaluated_data import different_keys, evaluated_data


def test_evaluated_data_are_the_keys_that_choose_the_images(tmp_path):
    coco = {"name": "coco", "root": str(tmp_path), "batch_size": 8, "image_size": 512, "train_images": "a"}
    expected = {"name": "coco", "split": "val", "root": str(tmp_path.resolve())}
    assert evaluated_data(coco) == evaluated_data({**coco, "image_size": 640, "root": f"{tmp_path}/"}) == expected
    assert evaluated_data(DataSection(**coco).model_dump()) == expected
    other = evaluated_data({**coco, "split": "test", "test_images": "b"})
    assert different_keys([expected, other]) == ["data.split", "data.test_images"]
    rendered = {"name": "scenes", "image_size": 96, "train_length": 9}
    assert evaluated_data(rendered) == {"name": "scenes", "split": "val", "image_size": "[96, 96]"}
    assert different_keys([expected, expected]) == []
