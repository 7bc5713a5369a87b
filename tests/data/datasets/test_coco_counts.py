"""Crowds of a COCO json."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split


def write(root: Path, split: str, crowds: list[int]) -> dict[str, Any]:
    """One image per object. crowds: `iscrowd` of each. Returns the json."""
    objects = [{"image_id": i, "category_id": 1, "bbox": [2, 3, 20, 10], "iscrowd": c} for i, c in enumerate(crowds)]
    return write_split(root, split, [noise(i, 30, 40) for i in range(len(crowds))], objects)


@pytest.mark.parametrize(
    ("crowds", "objects", "said"),
    [([1] * 10, 0, True), ([1] + [0] * 19, 19, False), ([1, 1] + [0] * 18, 18, True)],
)
def test_the_key_decides_on_crowds(tmp_path, crowds, objects, said):
    """Without it, crowds are said where they are more than 5 % of the objects."""
    root = str(tmp_path)
    write(tmp_path, "train", crowds)
    (tmp_path / "val.json").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        default = Coco("train", root)
    assert len(caught) == said and default.object_counts().sum() == objects
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ignored, used = (Coco("train", root, crowds=kind) for kind in ("ignore", "objects"))
    assert ignored.object_counts().sum() == objects and used.object_counts().sum() == len(crowds)
    assert ignored[0]["targets"]["iscrowd"].tolist() == [bool(crowds[0])]
    assert used[0]["targets"]["iscrowd"].tolist() == [False]
    if not objects:
        with pytest.raises(DataError, match=r"no object, except crowds.*data\.crowds=objects"):
            default.check_labels()
