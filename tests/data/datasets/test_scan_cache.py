"""densevit/data/datasets/scan_cache.py: what a cached scan holds, when it is used, and what invalidates it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from densevit.data.datasets.coco_dataset import Coco
from densevit.errors import DataError
from tests.data.coco_folder import noise, write_split
from tests.data.datasets.conftest import checked

pytestmark = pytest.mark.filterwarnings("ignore:.*without area inside")


@pytest.fixture
def root(tmp_path, cached_scans):
    """A COCO folder of four images with masks, a crowd, a text id and a box without area; all scans are cached."""
    counts = {"size": [30, 40], "counts": [100, 50, 1050]}
    annotations = [
        {"id": "one", "image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 6, 22]]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [3, 0, 9, 9], "iscrowd": 1, "segmentation": counts},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [50, 0, 9, 9], "segmentation": [[1, 1, 2, 1, 2, 2]]},
    ]
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    write_split(tmp_path, "train", [noise(index, 30, 40) for index in range(4)], annotations, categories)
    (tmp_path / "val.json").touch()  # so that train is not divided
    return tmp_path


def entries(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*.npz"))


def damage(root: Path) -> dict[Path, bytes]:
    """Empties the json and the images under their stamps, so that a scan is an error. Returns their content."""
    contents = {path: path.read_bytes() for path in (root / "train.json", *(root / "train").iterdir())}
    for path, content in contents.items():
        stamp = path.stat()
        path.write_bytes(bytes(len(content)))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return contents


def test_second_start_has_the_same_samples_without_a_scan(root, environment):
    first = checked(Coco, "train", str(root), masks=True)
    contents = damage(root)
    second = checked(Coco, "train", str(root), masks=True)
    environment(DENSEVIT_CACHE="off")
    with pytest.raises(DataError):
        checked(Coco, "train", str(root))
    assert not Path("off").exists()
    for path, content in contents.items():
        path.write_bytes(content)
    assert second.classes == first.classes and second.provides == first.provides and second.folder == first.folder
    for index in range(4):
        one, other = first[index]["targets"], second[index]["targets"]
        assert one.keys() == other.keys()
        assert all(np.array_equal(np.asarray(one[key]), np.asarray(other[key])) for key in one)


def test_changed_files_are_scanned_again(root):
    checked(Coco, "train", str(root))
    image, file = root / "train" / "2.png", root / "train.json"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"2.png cannot be read"):
        checked(Coco, "train", str(root))
    shutil.copy(root / "train" / "1.png", image)
    stamp = file.stat()
    file.write_text(file.read_text().replace('"cat"', '"cow"'))  # of the same size
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert [c.name for c in checked(Coco, "train", str(root)).classes["detection"]] == ["dog", "cow"]
    image.unlink()
    with pytest.raises(DataError, match=r"1 do not exist"):
        checked(Coco, "train", str(root))


def test_damaged_entry_is_replaced(root):
    checked(Coco, "train", str(root))
    for size in (0, 2000):
        [entry] = [one for one in entries(root) if one.name.startswith("coco-")]
        entry.write_bytes(entry.read_bytes()[:size])
        with pytest.warns(UserWarning, match=r"the cached scan cannot be read .* and is repeated"):
            checked(Coco, "train", str(root))
    damage(root)
    checked(Coco, "train", str(root))


def test_a_cache_that_cannot_be_written_is_a_warning(root):
    (root / "cache").touch()
    with pytest.warns(UserWarning, match=r"cannot be cached in .*cache \(File exists\).*DENSEVIT_CACHE"):
        assert len(checked(Coco, "train", str(root))) == 4
