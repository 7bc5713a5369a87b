"""Every data set of files reads images of other channels, in one file or in a file per channel."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from densevit import config as configs
from densevit.channels import Channels
from densevit.data.channel_statistics import measured
from densevit.data.data_builder import DataSplits
from densevit.data.datasets import division, measured_images
from densevit.errors import ConfigError, DataError

NAMES = ("red", "green", "blue", "nir")
H, W = 24, 32
SPLITS = ("train", "val")


def _images(root: Path, pattern: str) -> dict[str, np.ndarray]:
    """Writes two images of four channels for each split, and returns them by path. pattern: of the images."""
    written = {}
    for number, split in enumerate((*SPLITS, *SPLITS)):
        pixels = np.random.default_rng(number).integers(0, 10000, (H, W, 4)).astype(np.uint16)
        file = root / pattern.format(split=split, number=number)
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
        written[str(file)] = pixels
    return written


def _coco(root: Path) -> dict[str, np.ndarray]:
    images = _images(root, "{split}/{number}.tif")
    for split in SPLITS:
        files = sorted(Path(path).name for path in images if f"/{split}/" in path)
        entries = [{"id": i, "file_name": name, "width": W, "height": H} for i, name in enumerate(files)]
        boxes = [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0} for i in (0, 1)
        ]
        document = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "tree"}]}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return images


def _label_maps(root: Path) -> dict[str, np.ndarray]:
    images = _images(root, "images/{split}/{number}.tif")
    _maps(root, images, np.random.default_rng(0).integers(0, 2, (H, W), np.uint8))
    return images


def _depth(root: Path) -> dict[str, np.ndarray]:
    images = _images(root, "images/{split}/{number}.tif")
    _maps(root, images, np.full((H, W), 2000, np.uint16))
    return images


def _maps(root: Path, images: dict[str, np.ndarray], labels: np.ndarray) -> None:
    for path in images:
        file = Path(path.replace("/images/", "/labels/")).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), labels)


def _folders(root: Path) -> dict[str, np.ndarray]:
    images = _images(root, "{split}/a/{number}.tif")
    return images | _images(root, "{split}/b/{number}.tif")


SETS = {
    "coco": (_coco, {"name": "coco"}),
    "label_maps": (_label_maps, {"name": "label_maps", "classes": ["ground", "tree"]}),
    "depth": (_depth, {"name": "depth", "scale": 0.001}),
    "image_folder": (_folders, {"name": "image_folder"}),
    "images": (lambda root: _images(root, "{split}/{number}.tif"), {"name": "images"}),
    "mix": (_coco, None),
}


def _data(root: Path, kind: str, **channels: object) -> DataSplits:
    own = SETS[kind][1]
    sets = {"a": {"name": "coco", "root": str(root)}, "b": {"name": "coco", "root": str(root)}}
    values = {"name": "mix", "sets": sets} if own is None else {**own, "root": str(root)}
    return DataSplits(configs.section("data", {**values, "image_size": 16, **channels}, "test"), 0, 8)


@pytest.mark.parametrize("kind", SETS)
def test_every_data_set_reads_other_channels(kind, tmp_path):
    written = SETS[kind][0](tmp_path)
    data = _data(tmp_path, kind, channels=[*NAMES])
    for dataset in (data.train, data.val):
        assert dataset.channels == Channels(NAMES, "uint16", ())
        for index in range(len(dataset)):
            image = dataset[index]["image"].permute(1, 2, 0).numpy()
            assert any(np.array_equal(image, pixels) for pixels in written.values())
    assert measured(data.train).channels.names == NAMES
    for loader in (data.train_loader(), data.val_loader()):
        batch = next(iter(loader))
        assert str(batch["images"].dtype) == "torch.uint16"
        assert batch["images"].shape[1] == 4


@pytest.mark.parametrize("kind", SETS)
def test_an_image_of_another_type_is_named(kind, tmp_path):
    path = sorted(SETS[kind][0](tmp_path))[-1]
    tifffile.imwrite(path, np.zeros((H, W, 4), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(
        DataError, match=rf"{Path(path).name}: its pixels are uint8; those of the other images are uint16"
    ):
        data = _data(tmp_path, kind, channels=[*NAMES])
        for dataset in (data.train, data.val):
            [dataset[index] for index in range(len(dataset))]


def test_a_data_set_of_its_own_channels_takes_none():
    with pytest.raises(ConfigError, match=r"'scenes' has channels of its own \(red, green, blue, uint8"):
        _ = DataSplits(configs.section("data", {"name": "scenes", "channels": [*NAMES]}, "test"), 0, 8).train


@pytest.mark.parametrize("kind", ("images", "image_folder", "label_maps"))
def test_a_first_file_that_cannot_be_read_may_be_left_out(kind, tmp_path):
    first = next(path for path in sorted(SETS[kind][0](tmp_path)) if "/train/" in path)
    Path(first).write_bytes(Path(first).read_bytes()[:200])
    with pytest.warns(UserWarning, match="will be left out"):
        train = _data(tmp_path, kind, channels=[*NAMES], on_error="skip").train
    assert train.channels.dtype == "uint16"
    with pytest.raises(DataError, match=Path(first).name):
        _ = _data(tmp_path, kind, channels=[*NAMES]).train


def test_cached_statistics_are_of_the_same_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    for path, pixels in _images(root, "{split}/{number}.tif").items():
        pixels[:6] = 60000
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    plain, without = (
        measured(_data(root, "images", channels=[*NAMES], **keys).train).channels.range
        for keys in ({"nodata": 70000}, {"nodata": 60000})
    )
    assert all(high == 60000 for _, high in plain)
    assert all(high <= 10000 for _, high in without)


def _file_per_channel(root: Path) -> dict[str, object]:
    """Label maps with a file for each of two channels; the options of the data set."""
    for path in _label_maps(root):
        for i, name in enumerate(("red", "nir")):
            cv2.imwrite(
                path.replace(".tif", f"_{name}.png"),
                np.random.default_rng(i).integers(0, 999, (H, W)).astype(np.uint16),
            )
        Path(path).unlink()
    own = {"images": "images/{split}/*_red.png", "labels": "labels/{split}/*.png"}
    return {"channels": {"red": "_red", "nir": "_nir"}, **own}


@pytest.mark.parametrize("reads", ("statistics", "scan", "division"))
def test_a_new_file_of_any_channel_ends_what_is_cached(reads, tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured_images, "LARGE", 1)
    monkeypatch.setattr(division, "_FEW", 1)
    root = tmp_path / "set"
    options = _file_per_channel(root)

    def result() -> object:
        train = _data(root, "label_maps", **options).train
        if reads == "division":
            paths = [train.path(index) for index in range(len(train))]
            return division.similar_images(paths, train.channels)["digests"].tolist()
        return measured(train) if reads == "statistics" else train.sizes().tolist()

    before = result()
    assert result() == before
    for path in sorted(root.glob("images/train/*_nir.png"))[1:]:  # the first is read at each start
        size = (H, W) if reads != "scan" else (H + 1, W)
        cv2.imwrite(str(path), np.random.default_rng(9).integers(2000, 60000, size).astype(np.uint16))
    if reads == "scan":
        with pytest.raises(DataError, match=r"_nir\.png: it has \(height, width, channels\) \(25, 32, 1\)"):
            result()
    else:
        assert result() != before
