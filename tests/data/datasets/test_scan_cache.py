"""The cache of scans: what it holds, when it is used, and what invalidates it."""

import json
import multiprocessing
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.config import DataSection
from densevit.data.data_builder import DataSplits
from densevit.data.datasets import coco_annotations, measured_images, scan_cache
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.label_maps import LabelMaps
from densevit.errors import DataError
from tests.data.datasets.conftest import checked

pytestmark = pytest.mark.filterwarnings("ignore:.*without area inside")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A COCO folder of four images with masks, a crowd, a text id and a box without area; all scans are cached."""
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_annotations, "LARGE_JSON", 0)
    monkeypatch.setattr(measured_images, "LARGE", 0)
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(tmp_path / "train" / f"{index}.png")
    images = [{"id": index, "file_name": f"{index}.png", "height": 30, "width": 40} for index in range(4)]
    counts = {"size": [30, 40], "counts": [100, 50, 1050]}
    annotations = [
        {"id": "one", "image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 20], "segmentation": [[1, 2, 11, 2, 6, 22]]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [3, 0, 9, 9], "iscrowd": 1, "segmentation": counts},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [50, 0, 9, 9], "segmentation": [[1, 1, 2, 1, 2, 2]]},
    ]
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "train.json").write_text(json.dumps(document))
    (tmp_path / "val.json").touch()  # so that train is not divided
    return tmp_path


def entries(root: Path) -> list[Path]:
    return sorted((root / "cache").glob("*.npz"))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a scan an error."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("scanned again")

    monkeypatch.setattr(coco_annotations, "parse_json", fail)
    monkeypatch.setattr(measured_images, "image_header", fail)


def test_second_start_has_the_same_samples_without_a_scan(root, monkeypatch):
    first = checked(Coco, "train", str(root), masks=True)
    forbid(monkeypatch)
    second = checked(Coco, "train", str(root), masks=True)
    assert second.classes == first.classes and second.provides == first.provides and second.folder == first.folder
    for index in range(4):
        one, other = first[index], second[index]
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        assert one["targets"].keys() == other["targets"].keys()
        for key, value in one["targets"].items():
            assert np.array_equal(np.asarray(value), np.asarray(other["targets"][key]))
    monkeypatch.setenv("DENSEVIT_CACHE", "off")
    monkeypatch.chdir(root)
    with pytest.raises(AssertionError, match="scanned again"):
        checked(Coco, "train", str(root))
    assert not (root / "off").exists()


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


@pytest.mark.parametrize("seconds", [-86_400, 2**33], ids=["before 1970", "in 2242"])
def test_files_of_a_wrong_clock_are_scanned_once(root, monkeypatch, seconds):
    """Times are compared for equality only, so that those in the future do not matter, nor those that go back."""
    file = root / "train.json"
    for path in (file, *(root / "train").iterdir()):
        os.utime(path, (seconds, seconds))
    first = checked(Coco, "train", str(root))
    with monkeypatch.context() as scanned:
        forbid(scanned)
        assert checked(Coco, "train", str(root)).classes == first.classes
    file.write_text(file.read_text().replace('"cat"', '"cow"'))  # of the same size
    os.utime(file, (seconds - 10, seconds - 10))
    assert [c.name for c in checked(Coco, "train", str(root)).classes["detection"]] == ["dog", "cow"]


def test_damaged_entry_is_replaced(root, monkeypatch):
    checked(Coco, "train", str(root))
    for size in (0, 2000):
        [entry] = [one for one in entries(root) if one.name.startswith("coco-")]
        entry.write_bytes(entry.read_bytes()[:size])
        with pytest.warns(UserWarning, match=r"the cached scan cannot be read .* and is repeated"):
            checked(Coco, "train", str(root))
    forbid(monkeypatch)
    checked(Coco, "train", str(root))


def test_a_cache_that_cannot_be_written_is_a_warning(root, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match=r"cannot be cached in .*cache \(No space left on device\).*DENSEVIT_CACHE"):
        assert len(checked(Coco, "train", str(root))) == 4
    assert not entries(root) and not list((root / "cache").glob("*.partial"))
    (root / "file").write_text("")
    monkeypatch.setenv("DENSEVIT_CACHE", str(root / "file" / "cache"))
    with pytest.warns(UserWarning, match=r"cannot be cached in .*file/cache \((Not a directory|No such file)"):
        assert len(checked(Coco, "train", str(root))) == 4


@pytest.mark.filterwarnings("ignore:.*will be left out")
def test_scan_with_skipped_images_is_not_cached(root):
    (root / "train" / "2.png").write_bytes(b"no image")
    section = DataSection(name="coco", root=str(root), on_error="skip")  # an option
    assert len(DataSplits(section, 0, 32).train) == 4
    assert [one.name.partition("-")[0] for one in entries(root)] == ["coco"], "the json"


def test_label_maps_are_read_once(root, monkeypatch):
    folder = root / "labels" / "train"
    folder.mkdir(parents=True)
    shutil.copytree(root / "train", root / "images" / "train")
    for index in range(4):
        Image.fromarray(np.full((30, 40), index % 2, np.uint8)).save(folder / f"{index}.png")
    first = checked(LabelMaps, "train", str(root), classes=["a", "b"])
    forbid(monkeypatch)
    second = checked(LabelMaps, "train", str(root), classes=["a", "b"])
    assert np.array_equal(first.sizes(), second.sizes())
    second.check_labels()
    assert torch.equal(first[1]["targets"]["semantic"], second[1]["targets"]["semantic"])


def _count_scan(folder: str, calls: Any) -> None:
    os.environ["DENSEVIT_CACHE"] = folder

    def make() -> scan_cache.Arrays:
        with calls.get_lock():
            calls.value += 1
        return {"numbers": np.arange(5)}

    assert scan_cache.cached_scan(["test"], make, lambda _: [])["numbers"].tolist() == [0, 1, 2, 3, 4]


def test_of_several_processes_one_scans(tmp_path):
    context = multiprocessing.get_context("fork")
    calls = context.Value("i", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork beside threads
        processes = [context.Process(target=_count_scan, args=(str(tmp_path), calls)) for _ in range(4)]
        for process in processes:
            process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert calls.value == 1
