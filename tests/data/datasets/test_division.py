"""Data sets without a val split: their division is the same each time, and keeps duplicates together."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.division import validation_part
from densevit.errors import DataError
from densevit.interfaces import Dataset
from tests.data.coco_folder import noise, write_split
from tests.written_files import save_image


def save(path: Path, seed: int, side: int = 64, **options: Any) -> Path:
    """A random smooth image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    return save_image(path, Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), **options)


def write_coco(root: Path) -> Path:
    """20 images, each with an object."""
    objects = [{"image_id": k, "category_id": 1, "bbox": [k, 1, 9, 9]} for k in range(20)]
    write_split(root, "train", [noise(k, 64, 64) for k in range(20)], objects)
    return root


def ids(dataset: Dataset) -> list[Any]:
    return [dataset[i]["targets"]["image_id"] for i in range(len(dataset))]


def test_coco_without_val_is_divided_with_its_annotations(tmp_path):
    root = str(write_coco(tmp_path))
    train, val = (Coco(split, root=root) for split in ("train", "val"))
    for one in (train, val):
        for i, image_id in enumerate(ids(one)):
            assert one[i]["targets"]["boxes"].tolist() == [[image_id, 1, image_id + 9, 10]]
    assert ids(Coco("train", root=root, limit=2)) == ids(train)[:2]


def test_division_depends_on_content_only(tmp_path):
    paths = [save(tmp_path / "a" / f"{k}.png", k) for k in range(30)]
    chosen = validation_part([str(path) for path in paths], 0.3, tmp_path)
    hashes = [int.from_bytes(hashlib.blake2b(path.read_bytes(), digest_size=16).digest()[8:], "big") for path in paths]
    assert chosen.tolist() == [number / 2**64 < 0.3 for number in hashes] and 0 < chosen.sum() < 15
    order = np.random.default_rng(0).permutation(30).tolist()
    renamed = [tmp_path / "b" / f"{number:03}.png" for number in range(30)]
    renamed[0].parent.mkdir()
    for place, path in zip(order, renamed, strict=True):
        shutil.copy(paths[place], path)
    assert validation_part([str(path) for path in renamed], 0.3, tmp_path).tolist() == chosen[order].tolist()


def test_duplicates_stay_together(tmp_path):
    paths = []
    for k in range(12):
        paths += [save(tmp_path / f"{k}.png", k), save(tmp_path / f"{k}-small.jpg", k, side=48, quality=70)]
        shutil.copy(paths[-2], tmp_path / f"{k}-copy.png")
        paths.append(tmp_path / f"{k}-copy.png")
    chosen = validation_part([str(path) for path in paths], 0.25, tmp_path).reshape(12, 3)
    assert 0 < chosen.sum() < 18 and (chosen.all(axis=1) == chosen.any(axis=1)).all()
    with pytest.raises(DataError, match="its 1 images cannot be divided"):
        validation_part([str(paths[0])], 0.2, tmp_path)


def test_val_share_of_a_data_set_with_a_val_split_is_an_error(tmp_path):
    root = write_coco(tmp_path)
    (root / "val.json").write_text((root / "train.json").read_text())
    shutil.copytree(root / "train", root / "val")
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"val_share is 0\.3, but the data set has a val split: .*val\.json\. Fix"):
            Coco(split, root=str(root), val_share=0.3)


def test_a_long_chain_of_similar_images_is_for_training(tmp_path):
    for k in range(30):
        save(tmp_path / f"frame{k}.png", 0, side=64 + k)  # one image in 30 sizes
    for k in range(1, 21):
        save(tmp_path / f"other{k}.png", k)
    paths = sorted(map(str, tmp_path.glob("*.png")))
    chosen = np.array(paths)[validation_part(paths, 0.5, tmp_path)].tolist()
    assert 1 <= len(chosen) <= 20 and all("other" in path for path in chosen)
