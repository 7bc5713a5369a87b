"""Tar shards: the samples and the order of the data set that was written, and damaged files."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from densevit.cli import main
from densevit.config import DataSection
from densevit.data.data_splits import DataSplits
from densevit.data.dataset_builder import create_dataset
from densevit.errors import DataError
from densevit_workbench.interchange.shards import Shards
from tests.written_files import save_image

COUNT = 7
SPLITS = ("train", "val")


def write_images(root: Path) -> list[tuple[int, int]]:
    """Noise of several sizes, JPEG and PNG; the second is rotated by EXIF. Returns the sizes as stored, (h, w)."""
    rng, sizes = np.random.default_rng(0), []
    for index in range(COUNT):
        height, width = (int(side) for side in rng.integers(20, 50, 2))
        image, exif = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)), Image.Exif()
        exif[0x0112] = 6 if index == 1 else 1
        for split in SPLITS:
            save_image(root / "images" / split / f"{index}.{'png' if index == 2 else 'jpg'}", image, exif=exif)
        sizes.append((height, width))
    return sizes


def coco(root: Path) -> dict[str, Any]:
    """Boxes of awkward fractions, polygons, run lengths, a crowd, and an image without objects."""
    sizes = write_images(root)
    rng, annotations = np.random.default_rng(1), []
    for number in range(12):
        image = number % (COUNT - 1)  # the last has none
        height, width = sizes[image]
        x, y, w, h = (float(value) for value in rng.uniform([0, 0, 3, 3], [9, 9, 10, 10]))
        crowd = number % 5 == 0
        mask = rle.encode(np.asfortranarray(rng.integers(0, 2, (height, width)).astype(np.uint8)))
        polygon = [[x, y, x + w, y, x + w, y + h]]
        segmentation = {"size": mask["size"], "counts": mask["counts"].decode()} if crowd else polygon
        annotations.append(
            {"id": number, "image_id": 10 * image, "category_id": (7, 90)[number % 2], "bbox": [x, y, w, h],
             "area": w * h / 3, "iscrowd": int(crowd), "segmentation": segmentation}
        )  # fmt: skip
    images = [
        {"id": 10 * i, "file_name": f"{i}.{'png' if i == 2 else 'jpg'}", "height": h, "width": w}
        for i, (h, w) in enumerate(sizes)
    ]
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    for split in SPLITS:
        (root / f"{split}.json").write_text(json.dumps(document))
    return {"name": "coco", "masks": True, "images": "images/train", "boxes": "stored"}


def label_maps(root: Path) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    for index, size in enumerate(write_images(root)):
        labels = Image.fromarray(rng.choice([0, 4, 255], size).astype(np.uint8))
        for split in SPLITS:
            save_image(root / "labels" / split / f"{index}.png", labels)
    classes = [{"name": "road", "id": 4, "color": [1, 2, 3]}, {"name": "tree", "id": 0, "color": [4, 5, 6]}]
    return {"name": "label_maps", "classes": classes}


def write(kind: Any, tmp_path: Path, *extra: str, size: str = "8KB") -> tuple[dict[str, Any], Path]:
    """Writes a data set and its shards, about three images each; returns its section and the shards' folder."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    section = {**kind(source), "root": str(source)}
    (tmp_path / "data.yaml").write_text(json.dumps({key: value for key, value in section.items() if key != "root"}))
    assert main(["shard", str(tmp_path / "data.yaml"), str(out), f"data.root={source}", "--size", size, *extra]) == 0
    return section, out


def assert_same_samples(one: Any, other: Any) -> None:
    """Bit-identical images and targets."""
    assert torch.equal(one["image"], other["image"]) and one["targets"].keys() == other["targets"].keys()
    for key, value in one["targets"].items():
        found = other["targets"][key]
        assert type(found) is type(value)
        if hasattr(value, "areas"):  # run-length codes
            assert torch.equal(found.to("cpu"), value.to("cpu"))
        elif isinstance(value, torch.Tensor):
            assert found.dtype == value.dtype and torch.equal(found, value)
        else:
            assert found == value


@pytest.fixture
def out(made_once: Any, tmp_path: Path) -> Path:
    """A copy of shards of label maps."""

    def make(folder: Path) -> None:
        folder.mkdir()
        write(label_maps, folder)

    return Path(shutil.copytree(made_once("shards", make) / "out", tmp_path / "out"))


@pytest.mark.parametrize(("kind", "split"), [(coco, "train"), (label_maps, "val")])
def test_samples_are_those_of_the_source(tmp_path: Path, kind: Any, split: str) -> None:
    section, out = write(kind, tmp_path)
    source, shards = create_dataset(split=split, **section), create_dataset("shards", split, root=str(out))
    assert len(shards) == len(source) == COUNT and len(list((out / split).glob("*.tar"))) > 1
    assert shards.classes == source.classes and shards.provides == tuple(source.provides)
    assert shards.metric == source.metric
    for name in ("sizes", "object_counts", "image_classes"):
        expected, found = (getattr(one, name, lambda: None)() for one in (source, shards))
        assert (expected is None) == (found is None)
        assert expected is None or np.array_equal(expected, found)
    shards.check_labels()
    for index in range(COUNT):
        assert_same_samples(source[index], shards[index])
    check_by_webdataset(source, sorted(map(str, (out / split).glob("*.tar"))), kind)


def check_by_webdataset(source: Any, files: list[str], kind: Any) -> None:
    records = pytest.importorskip("webdataset").WebDataset(files, shardshuffle=False)
    for index, record in enumerate(records):
        path = Path(source.path(index))
        assert record["__key__"] == f"{index:09}"
        if index == 1:  # labelled as stored, while EXIF rotates it
            assert "png" in record
        else:
            assert record[path.suffix[1:]] == path.read_bytes(), "images keep their bytes"
        assert json.loads(record["json"])["image_id"] == source[index]["targets"]["image_id"]
    assert index == COUNT - 1
    if kind is label_maps:
        assert np.array_equal(next(iter(records.decode()))["npz"]["semantic"], source[0]["targets"]["semantic"])


# ---- the order ----


def test_an_epoch_has_each_record_once_and_few_shards_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("{name: scenes, train_length: 40, val_length: 1, image_size: 32}")
    out = tmp_path / "out"
    assert main(["shard", str(tmp_path / "data.yaml"), str(out), "--size", "1KB"]) == 0
    data = DataSplits(DataSection(name="shards", root=str(out), batch_size=2), 0, 32)  # type: ignore[call-arg]
    assert isinstance(data.train, Shards)
    shard_of = data.train._arrays["records"][:, 0]
    assert len(set(shard_of.tolist())) == 40, "1 KB holds one scene"
    orders = []
    for epoch in range(3):
        loaders = [data.train_loader(rank, world_size=2) for rank in range(2)]
        for loader in loaders:
            loader.set_epoch(epoch)
        batches = [[[pick.index for pick in batch] for batch in loader.batch_sampler] for loader in loaders]
        seen = Counter(index for of_rank in batches for batch in of_rank for index in batch)
        assert set(seen.values()) == {1} and len(seen) == 40
        in_time = [index for pair in zip(*batches, strict=True) for batch in pair for index in batch]
        windows = [sorted(in_time[begin : begin + 4]) for begin in range(0, 40, 4)]
        assert all(len(set(shard_of[window].tolist())) <= 4 for window in windows)
        assert windows != [[*range(begin, begin + 4)] for begin in range(0, 40, 4)]
        orders.append(in_time)
    assert len({str(order) for order in orders}) == 3


def test_resuming_continues_exactly(out: Path) -> None:
    section = DataSection(name="shards", root=str(out), batch_size=2, image_size=32, num_workers=2)  # type: ignore[call-arg]
    whole, interrupted, resumed = (DataSplits(section, 0, 32).train_loader() for _ in range(3))
    next(iter(interrupted))
    resumed.load_state_dict(interrupted.state_dict())
    names = [[[targets["image_id"] for targets in batch["targets"]] for batch in loader] for loader in (whole, resumed)]
    assert names[1] == names[0][1:] != []


# ---- errors ----


def test_missing_and_truncated_shards_are_named(out: Path, tmp_path: Path) -> None:
    files = [out / split / "000001.tar" for split in SPLITS]
    files[0].write_bytes(files[0].read_bytes()[:-600])
    files[1].unlink()
    for split, root, text in (
        *((split, out, r"000001.tar is missing, cut short or replaced; .*Fix: copy") for split in SPLITS),
        ("test", out, r"no shards of a split 'test', only \['train', 'val'\]. Fix: data.val_split=train"),
        ("train", tmp_path, r"no shards of a split 'train', .* Fix: densevit shard SRC"),
    ):
        with pytest.raises(DataError, match=text):
            Shards(split, str(root))
