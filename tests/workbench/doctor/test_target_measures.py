"""`densevit doctor` on label maps, depth, and targets of a third party."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import densevit
from tests.workbench.doctor.test_examination import HEIGHT, WIDTH, save, write_label_maps


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
            (tmp_path / "labels" / split).mkdir(parents=True, exist_ok=True)
            depth = np.full((HEIGHT, WIDTH), 2000 + number, np.uint16)
            Image.fromarray(depth).save(tmp_path / "labels" / split / f"{number}.png")
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


PLUGIN = """
import numpy as np, torch
import densevit
from densevit.errors import DataError

class Wheels(densevit.TargetType):
    per = "object"
    def check(self, value, size):
        if value.ndim != 2 or value.shape[1] != 2:
            raise DataError(f"has shape {tuple(value.shape)}; expected (N, 2).")
    def measure(self, value, size):
        return {"wheel (px)": value[:, 0]}

class Cars(densevit.Dataset):
    classes = {}
    provides = {"wheels": Wheels()}
    def __init__(self, split): self.split = split
    def __len__(self): return 5
    def __getitem__(self, index):
        if self.split == "train" and index == 2:
            raise RuntimeError("lost")
        wheels = torch.full((2, 3 if self.split == "train" and index == 1 else 2), float(index))
        rng = np.random.default_rng([index, len(self.split)])
        image = torch.from_numpy(rng.integers(0, 255, (3, 32, 32), np.uint8))
        if self.split == "train" and index == 4:
            image = image / 255
        return {"image": image, "targets": {"image_id": index, "wheels": wheels}}
"""


def test_third_party_targets_are_examined_by_their_type(tmp_path: Path, on_path: Any):
    (tmp_path / "cars_plugin.py").write_text(PLUGIN)
    on_path(tmp_path)
    (tmp_path / "cars.yaml").write_text("{name: 'cars_plugin:Cars'}")
    diagnosis = densevit.doctor(tmp_path / "cars.yaml")
    found = {one.title: one.examples for one in diagnosis.errors}
    wheels, image = found.pop("invalid samples")
    assert wheels == "image 1: wheels has shape (2, 3); expected (N, 2)."
    assert image.startswith("image 4: the image is float32 (3, 32, 32) on cpu; uint8 (3, H, W)")
    assert found == {"unreadable images": ("image 2: RuntimeError: lost",)}
    assert diagnosis.splits["train"].sizes.tolist() == [[32, 32]] * 3  # of the others
    assert diagnosis.splits["train"].measures["wheels"]["wheel (px)"].tolist() == [0, 0, 3, 3]
