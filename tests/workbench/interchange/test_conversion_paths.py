"""Conversions of images outside of the source."""

import json
from pathlib import Path
from typing import Any

import pytest

from densevit.errors import DataError
from densevit_workbench.interchange.dataset_conversion import convert_dataset
from tests.workbench.interchange.test_dataset_conversion import coco, image, yolo
from tests.written_files import write_text


def outside_yolo(root: Path, secret: Path) -> Path:
    yolo(root)
    write_text(root / "list.txt", f"./images/train/a.png\n{secret}\n")
    write_text(root / "data.yaml", "train: list.txt\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


def outside_coco(root: Path, secret: Path) -> Path:
    coco(root, 8)
    document = json.loads((root / "train.json").read_text())
    document["images"][0]["file_name"] = f"../../{secret.parent.name}/{secret.name}"
    write_text(root / "train.json", json.dumps(document))
    return root


@pytest.mark.filterwarnings("ignore:.* no text file")
@pytest.mark.parametrize("make", [outside_yolo, outside_coco])
def test_images_outside_of_the_source_are_converted_only_if_allowed(tmp_path: Path, make: Any):
    source, out = make(tmp_path / "in", image(tmp_path / "private" / "secret.png")), tmp_path / "out"
    format = make.__name__.split("_")[1]
    with pytest.raises(DataError, match=r"secret|private") as caught:
        convert_dataset(format, source, out)
    assert f"outside of {source}" in str(caught.value) and "--outside-paths" in str(caught.value)
    assert not out.exists() and not out.with_name("out.partial").exists()
    before = {*tmp_path.rglob("*")}
    convert_dataset(format, source, out, outside_paths=True)
    assert "secret.png" in [path.name for path in out.rglob("*.png")]
    assert all(path.is_relative_to(out) for path in {*tmp_path.rglob("*")} - before)
