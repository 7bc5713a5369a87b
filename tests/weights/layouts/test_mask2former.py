"""The classes of Mask2Former's checkpoints, which are known by their number."""

import torch

from densevit.weights.label_sets import coco_panoptic_classes
from densevit.weights.layouts import find, recognise


def test_a_model_of_80_classes_is_recognised_as_one_of_cocos_instances():
    head = "sem_seg_head.predictor.class_embed.bias"
    marks = [mark.replace("{i}", "0") for mark in find("mask2former").marks]
    for rows, name in ((134, "mask2former"), (81, "mask2former-instance"), (151, "mask2former")):
        assert recognise({mark: torch.zeros(1) for mark in marks} | {head: torch.zeros(rows)}).name == name


def test_classes_by_their_number():
    layout = find("mask2former")
    row = "sem_seg_head.predictor.class_embed.bias"
    coco = layout.classes({row: torch.zeros(134)}, {})["panoptic"]
    assert coco == coco_panoptic_classes() and len(coco) == 133
    assert (coco[79].name, coco[80].name, coco[132].file_id, coco[132].thing) == ("toothbrush", "banner", 200, False)
    things = find("mask2former-instance").classes({row: torch.zeros(81)}, {})["detection"]
    assert [one.file_id for one in things] == [one.file_id for one in coco[:80]]
    assert len(find("mask2former-semantic").classes({row: torch.zeros(151)}, {})["segmentation"]) == 150

    ade = layout.classes({row: torch.zeros(151)}, {})["panoptic"]  # register_ade20k_panoptic.py
    assert [(one.name, one.file_id, one.thing) for one in ade[6:9]] == [
        ("road", 6, False), ("bed", 7, True), ("window", 8, True)
    ]  # fmt: skip
    assert sum(one.thing for one in ade) == 100
    things = find("mask2former-instance").classes({row: torch.zeros(101)}, {})["detection"]
    assert things == tuple(one for one in ade if one.thing)
    city = layout.classes({row: torch.zeros(20)}, {})["panoptic"]
    assert [one.name for one in city if one.thing] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    assert [(one.name, one.file_id) for one in city[:2]] == [("road", 7), ("sidewalk", 8)]
    own = layout.classes({row: torch.zeros(20)}, {"classes": [f"part {i}" for i in range(19)]})["panoptic"]
    assert [one.name for one in own[:2]] == ["part 0", "part 1"] and own[0].thing
