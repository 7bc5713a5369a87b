"""`densevit doctor` on label maps, depth, and targets of a third party."""

from pathlib import Path

import numpy as np
from PIL import Image

import densevit
from tests.workbench.doctor.test_examination import HEIGHT, WIDTH, save, write_label_maps
from tests.written_files import save_image


def test_label_values_of_all_files_are_found(tmp_path: Path):
    root = write_label_maps(tmp_path)
    for number, value in ((1, 7), (3, 9)):
        path = root / "labels" / "train" / f"{number}.png"
        values = np.asarray(Image.open(path)).copy()
        values[20, :3] = value
        Image.fromarray(values).save(path)
    diagnosis = densevit.doctor(root, ["data.classes=[floor, wall]"])
    [wrong] = diagnosis.errors
    assert (wrong.title, wrong.count, wrong.split) == ("invalid files", 2, "train")
    assert "labels/train/1.png has values that no class has: 7 in 3 pixels" in wrong.examples[0]
    assert "labels/train/3.png has values that no class has: 9 in 3 pixels" in wrong.examples[1]
    assert densevit.doctor(root).splits["train"].classes["semantic"].names[:2] == ("value 0", "value 1")
    classes = diagnosis.splits["train"].classes["semantic"]
    assert classes.counts.tolist() == [3 * 24 * WIDTH, 3 * 12 * WIDTH] and classes.unit == "pixels"
    assert diagnosis.splits["val"].measures["semantic"]["labelled pixels"].tolist() == [0.75, 0.75]


def test_depth_in_a_wrong_unit_is_an_error_and_its_range_a_note(tmp_path: Path):
    for split, first in (("train", 0), ("val", 60)):
        for number in range(3):
            save(tmp_path / "images" / split / f"{number}.png", number + first)
            depth = np.full((HEIGHT, WIDTH), 2000 + number, np.uint16)
            save_image(tmp_path / "labels" / split / f"{number}.png", depth)
    wrong = densevit.doctor(tmp_path)
    assert [one.title for one in wrong.errors] == ["the split cannot be read"] * 2
    assert "set data.scale=0.001" in wrong.errors[0].examples[0]
    implausible = densevit.doctor(tmp_path, ["data.scale=1"])
    assert [one.title for one in implausible.errors] == ["implausible depth"] * 2
    assert "median of 2001 m" in implausible.errors[0].examples[0] and "data.scale=0.001" in str(implausible.errors[0])
    right = densevit.doctor(tmp_path, ["data.scale=0.001"])
    assert not right.errors
    assert right.findings[0].examples == ("2 to 2 m, median 2 m, 100.0% of pixels known (read 3 of 3)",)
    some = densevit.doctor(tmp_path, ["data.scale=0.001"], images=2)
    assert not some.errors and "(read 2 of 3)" in some.findings[0].examples[0]
