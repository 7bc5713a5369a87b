"""COCO-format data: layouts, unusual but valid files, and invalid ones, each reported at startup."""

import os
import re
from typing import Any

import pytest
import torch

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_json import color_of
from densevit.data.datasets.mapped_classes import MappedClasses
from densevit.data.loading.repeat_factors import SupportsImageClasses
from densevit.data.transforms.default import DefaultTransforms
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import DataError
from tests.data.datasets.conftest import coco_document as document

# ---- samples ----


def test_boxes_labels_areas_and_crowds_of_each_image(write_coco):
    dataset = Coco("train", root=str(write_coco()))
    classes = dataset.classes["detection"]
    names = [("train", 7, color_of(0)), ("toothbrush", 90, color_of(1)), ("unused", 1000, color_of(2))]
    assert [(c.name, c.file_id, c.color) for c in classes] == names
    assert len({color_of(k) for k in range(80)}) == 80
    assert len(dataset) == 3 and len(Coco("train", root=str(write_coco()), limit=2)) == 2
    assert MappedClasses(dataset, {}).image_name(1) == dataset.image_name(1) == "1.jpg"
    mapped = (MappedClasses(dataset, kept) for kept in ({}, {"detection": [1, 0]}))  # labels of other indices
    assert [isinstance(x, SupportsImageClasses) for x in mapped] == [True, False]
    assert (dataset.sizes().tolist(), dataset.provides) == ([[30, 40]] * 3, ("boxes", "labels"))
    assert [dataset.other_files(index) for index in range(3)] == [[str(dataset.file)], [], []]
    targets = [dataset[index]["targets"] for index in range(3)]
    assert [t["image_id"] for t in targets] == [0, 5, 10]
    keys = ("boxes", "labels", "area", "iscrowd")
    boxes, labels, areas, crowds = ([target[key].tolist() for target in targets] for key in keys)
    assert boxes == [[[0.5, 0.25, 30.5, 20.75]], [[1, 2, 11, 22], [30, 20, 80, 70]], []], "as in the json"
    assert (labels, crowds) == ([[0], [1, 0], []], [[False], [False, True], []])
    assert areas == [[615.0], [150.5, 100], []], "without `area`, width times height"
    assert targets[2]["boxes"].shape == (0, 4) and targets[2]["labels"].shape == (0,)
    for t in targets:
        assert [t[key].dtype for key in ("boxes", "labels", "area")] == [torch.float64, torch.int64, torch.float64]
        assert t["iscrowd"].dtype == torch.bool and "masks" not in t
    image = dataset[0]["image"]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    assert (image[:, 5, 5].int() - torch.tensor([200, 10, 15])).abs().max() <= 3


def test_degenerate_boxes_are_left_out_in_training(write_coco):
    boxes = [[1, 1, 0, 5], [1, 1, 5, 0], [3, 3, -1, 4], [40, 5, 10, 10], [-9, 5, 9, 9], [1, 1, 5, 5]]
    annotations = [{"id": k, "image_id": 5, "category_id": 7, "bbox": box} for k, box in enumerate(boxes)]
    dataset = Coco("train", root=str(write_coco(document(annotations=annotations))))
    dataset.check_files()
    assert len(dataset[1]["targets"]["boxes"]) == 6, "as in the json, for evaluation"
    assert dataset.object_counts().tolist() == [0, 1, 0] and dataset.image_classes().tolist() == [[1, 0]]
    assert dataset.all_objects()[1]["boxes"].tolist() == [[1, 1, 6, 6]]
    keep_size = EvaluationTransform(DefaultTransforms((30, 40)))
    assert keep_size(dataset[1])["targets"]["boxes"].tolist() == [[1, 1, 6, 6]]


def with_image(**changes: Any) -> dict[str, Any]:
    content = document()
    content["images"][1] |= changes
    return content


@pytest.mark.parametrize("form", ["a/../../../secret.jpg", "{absolute}"])
def test_images_outside_of_their_folder_are_read_only_if_allowed(form, tmp_path, write_coco):
    name = form.format(absolute=tmp_path / "secret.jpg")
    root = write_coco(with_image(file_name=name))
    message = rf"train\.json: the file_name '{re.escape(name)}' is outside of .*set/train, .*outside_paths"
    with pytest.raises(DataError, match=message):
        Coco("train", root=str(root))
    allowed = Coco("train", root=str(root), outside_paths=True)
    assert os.path.realpath(allowed.path(1)) == str(tmp_path / "secret.jpg")
    assert len(allowed[1]["targets"]["boxes"]) == 2
