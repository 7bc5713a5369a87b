"""Classes of other projects' classifiers, against tables of these projects."""

import pytest

from densevit.layouts import coco_classes, instance_classes, numbered_classes, objects365_classes

# `obj365_ids` of Peterande/D-FINE: for each class of COCO, the most similar one of Objects365, from 0.
OBJECTS365_OF_COCO = [
    0, 46, 5, 58, 114, 55, 116, 65, 21, 40, 176, 127, 249, 24, 56, 139, 92, 78, 99, 96, 144, 295, 178, 180, 38, 39, 13,
    43, 120, 219, 148, 173, 165, 154, 137, 113, 145, 146, 204, 8, 35, 10, 88, 84, 93, 26, 112, 82, 265, 104, 141, 152,
    234, 143, 150, 97, 2, 50, 25, 75, 98, 153, 37, 73, 115, 132, 106, 61, 163, 134, 277, 81, 133, 18, 94, 30, 169, 70,
    328, 226,
]  # fmt: skip
OTHER_NAMES = {  # of similar classes
    "bird": "Wild Bird", "handbag": "Handbag/Satchel", "suitcase": "Luggage", "skis": "Skating and Skiing shoes",
    "sports ball": "Baseball", "bowl": "Bowl/Basin", "orange": "Orange/Tangerine", "tv": "Monitor/TV",
    "teddy bear": "Stuffed Toy", "hair drier": "Hair Dryer",
}  # fmt: skip


def test_objects365s_classes_have_the_order_of_its_file_ids():
    classes = objects365_classes()
    assert [one.file_id for one in classes] == [*range(1, 366)] and len({one.name.casefold() for one in classes}) == 365
    for coco, index in zip(coco_classes(), OBJECTS365_OF_COCO, strict=True):
        assert classes[index].name.casefold() == OTHER_NAMES.get(coco.name, coco.name).casefold()


@pytest.mark.parametrize(("rows", "first"), [(365, []), (366, ["None"])])
def test_classes_of_365_and_366_rows_are_objects365s(rows, first):
    expected = [*first, *(one.name for one in objects365_classes())]
    assert [one.name for one in instance_classes(rows)] == expected
    own = [f"part {i}" for i in range(rows)]
    assert instance_classes(rows, own) == numbered_classes(rows, own)
