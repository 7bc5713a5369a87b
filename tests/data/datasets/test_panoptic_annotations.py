"""densevit/data/datasets/panoptic_annotations.py: the segments of a json, sorted by image."""

import json
from pathlib import Path

import numpy as np

from densevit.data.datasets.panoptic_annotations import read_panoptic_annotations
from tests.data.datasets.test_coco_panoptic import SEGMENTS, document


def test_segments_are_rows_of_their_image(tmp_path: Path) -> None:
    content = document()
    content["images"].append({"id": 43, "file_name": "b.jpg", "height": 3, "width": 4})
    content["annotations"].insert(0, {"image_id": 43, "file_name": "b.png", "segments_info": SEGMENTS[2:3]})
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read_panoptic_annotations(tmp_path / "a.json")
    assert found.image_names.tolist() == [b"a.jpg", b"b.jpg"] and found.segment_files.tolist() == [b"a.png", b"b.png"]
    assert [found.ids[found.rows(i)].tolist() for i in range(2)] == [[9, 7, 70000, 300], [70000]]
    assert found.labels.tolist() == [1, 1, 2, 1, 2], "wall, dog, sky, cat"
    second = found.subset(np.array([False, True]))
    assert (second.image_ids.tolist(), second.ids.tolist(), second.iscrowd.tolist()) == ([43], [70000], [False])
