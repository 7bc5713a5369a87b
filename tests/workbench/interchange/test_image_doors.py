"""Images of each kind have the same pixels in shards, in the folders of other formats, and after a conversion."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from densevit.cli import main
from densevit.errors import ConfigError
from densevit_workbench.interchange.shard_writer import write_record
from densevit_workbench.interchange.shards import decode
from tests.data.image_sources import (
    SOURCES,
    ImageSource,
    check_data,
    no_warning_of_files,
    read_data,
    same,
    write_coco,
    write_images,
)

Written = dict[str, np.ndarray]


def _yolo(source: ImageSource, root: Path) -> Written:
    written = write_images(source, root, "images/{split}/{number}")
    for path in written:
        label = Path(path.replace("/images/", "/labels/")).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [tree]\n")
    return written


def _voc(source: ImageSource, root: Path) -> Written:
    written = write_images(source, root, "{split}/{number}")
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for path, pixels in written.items():
        size = f"<size><width>{pixels.shape[1]}</width><height>{pixels.shape[0]}</height></size>"
        text = f"<annotation><filename>{Path(path).name}</filename>{size}<object><name>tree</name>{box}</object>"
        Path(path).with_suffix(".xml").write_text(f"{text}</annotation>")
    return written


def _labelme(source: ImageSource, root: Path) -> Written:
    written = write_images(source, root, "{split}/{number}")
    shapes = [{"label": "tree", "shape_type": "rectangle", "points": [[2, 2], [20, 20]]}]
    for path in written:
        document = {"shapes": shapes, "imagePath": Path(path).name}
        Path(path).with_suffix(".json").write_text(json.dumps(document))
    return written


FORMATS = {"yolo": _yolo, "voc": _voc, "labelme": _labelme, "coco": write_coco}
NEEDS_NAMES = ("npy", "exr", "a file per channel")  # for a conversion from another format than COCO's


def _overrides(source: ImageSource) -> list[str]:
    return [f"data.{key}={json.dumps(value)}" for key, value in source.keys.items()]


@pytest.mark.parametrize(("format", "kind"), [*(("yolo", kind) for kind in SOURCES), ("voc", "photo"), ("voc", "exr")])
def test_folders_of_other_formats(kind, format, tmp_path):
    written = FORMATS[format](SOURCES[kind], tmp_path)
    with no_warning_of_files(tmp_path):
        data = read_data(SOURCES[kind], tmp_path, "coco")
        check_data(data, written)
    assert data.train.conversion and len(data.train[0]["targets"]["boxes"]) == 1


CONVERSIONS = [  # the last: whether the files are also found without the names of their channels
    *(("coco", kind, kind != "a file per channel") for kind in SOURCES),
    *((format, kind, False) for format in ("yolo", "voc", "labelme") for kind in ("photo", *NEEDS_NAMES)),
]


@pytest.mark.parametrize(("format", "kind", "also_unnamed"), CONVERSIONS)
def test_converted_folders(kind, format, also_unnamed, tmp_path):
    """The names of the channels are needed for a file per channel, and to find NPY and EXR files."""
    source = SOURCES[kind]
    written = FORMATS[format](source, tmp_path / "source")
    given = _overrides(source)
    for overrides in (given, []) if also_unnamed and given else (given,):
        out = tmp_path / f"out{len(overrides)}"
        with no_warning_of_files(tmp_path):
            arguments = ["data", "convert", format, str(tmp_path / "source"), str(out), "--quiet"]
            assert main([*arguments, *overrides]) == 0
            check_data(read_data(source, out, "coco"), written)


def test_a_conversion_takes_keys_of_channels_only(tmp_path, capsys):
    FORMATS["yolo"](SOURCES["bands"], tmp_path)
    assert main(["data", "convert", "yolo", str(tmp_path), str(tmp_path / "out"), "data.root=x"]) == 2
    assert "'data.root=x' is not a key of images' channels: data.channels, data.range" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SOURCES)
def test_shards(kind, tmp_path):
    source, out = SOURCES[kind], tmp_path / "shards"
    written = write_coco(source, tmp_path / "source")
    assert main(["shard", "data/coco", str(out), f"data.root={tmp_path / 'source'}", *_overrides(source)]) == 0
    data = read_data(source._replace(keys={}), out, "shards")
    check_data(data, written)
    expected = read_data(source, tmp_path / "source", "coco")
    assert data.train.channels == expected.train.channels
    assert len(next(iter(data.train_loader()))["images"])
    if kind != "photo":
        check_data(read_data(source, out, "shards"), written)
        with pytest.raises(ConfigError, match="'shards' has channels of its own"):
            _ = read_data(source, out, "shards", range=[-20000, 20000]).train


@pytest.mark.parametrize("kind", ["photo", "bands", "gaps by a tag", "a file per channel"])
def test_a_changed_image_in_shards(kind, tmp_path):
    """Its pixels are written, with the missing ones."""
    source = SOURCES[kind]
    write_coco(source, tmp_path)
    dataset = read_data(source, tmp_path, "coco").train
    sample = dataset[0]
    sample["image"] = sample["image"].flip(2)
    for path in (dataset.path(0), None):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            write_record(tar, "0", sample, path, dataset.channels)
            assert [*tar.getnames()] == [*(["0.png"] if kind == "photo" else []), "0.json", "0.npz"]
        decoded = decode(buffer.getvalue(), "record")["image"]
        assert same(decoded, sample["image"].permute(1, 2, 0).numpy())
