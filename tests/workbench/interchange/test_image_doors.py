"""Images of several kinds have the same pixels in shards, in the folders of other formats, and after a conversion."""

import json
from pathlib import Path

import numpy as np
import pytest

from densevit.cli import main
from densevit.errors import ConfigError
from tests.data.image_sources import (
    SOURCES,
    ImageSource,
    check_data,
    no_warning_of_files,
    read_data,
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


KINDS = ("photo", "bands", "gaps by a tag", "npy", "exr", "a file per channel")  # tests/data reads the others too
FORMATS = {"yolo": _yolo, "coco": write_coco}
NEEDS_NAMES = ("npy", "exr", "a file per channel")  # for a conversion from another format than COCO's


def _overrides(source: ImageSource) -> list[str]:
    return [f"data.{key}={json.dumps(value)}" for key, value in source.keys.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_another_format(kind, tmp_path):
    written = _yolo(SOURCES[kind], tmp_path)
    with no_warning_of_files(tmp_path):
        data = read_data(SOURCES[kind], tmp_path, "coco")
        check_data(data, written)
    assert data.train.conversion and len(data.train[0]["targets"]["boxes"]) == 1


CONVERSIONS = [  # the last: whether the files are also found without the names of their channels
    *(("coco", kind, kind != "a file per channel") for kind in KINDS),
    *(("yolo", kind, False) for kind in ("photo", *NEEDS_NAMES)),
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


@pytest.mark.parametrize("kind", KINDS)
def test_shards(kind, tmp_path):
    source, out = SOURCES[kind], tmp_path / "shards"
    written = write_coco(source, tmp_path / "source")
    assert main(["shard", "data/coco", str(out), f"data.root={tmp_path / 'source'}", *_overrides(source)]) == 0
    data = read_data(source._replace(keys={}), out, "shards")
    check_data(data, written)
    assert data.train.channels == read_data(source, tmp_path / "source", "coco").train.channels
    assert len(next(iter(data.train_loader()))["images"])
    if kind != "photo":
        check_data(read_data(source, out, "shards"), written)
        with pytest.raises(ConfigError, match="'shards' has channels of its own"):
            _ = read_data(source, out, "shards", range=[-20000, 20000]).train
