"""Text files as programs on Windows write them, with a byte-order mark and carriage returns, in every reader."""

import codecs
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.cli.input_images import find_images
from densevit.data.datasets.color_tables import read_labelmap
from densevit.data.datasets.depth_maps import DepthMaps
from densevit.data.datasets.depth_values import Calibration
from densevit.data.datasets.label_maps import LabelMaps
from densevit.errors import DataError
from densevit.evaluation import tables_file
from densevit_workbench.interchange.shards import Shards

UTF_8 = codecs.BOM_UTF8
ENCODED: dict[str, Callable[[str], bytes]] = {
    "UTF-8": lambda text: UTF_8 + text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le"),
}


def pairs(root: Path, kind: type = np.uint8) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (4, 3)).save(root / "images" / f"{name}.png")
        Image.fromarray(np.tile(np.array([0, 1], kind), (3, 2))).save(root / "labels" / f"{name}.png")


def list_of_label_maps(root: Path, write: Callable[[str, str], Path]) -> object:
    pairs(root)
    write("list.txt", "a\nb\n")
    where = {"images": "images", "labels": "labels", "list_file": "list.txt"}
    return len(LabelMaps("train", root=str(root), classes=["x", "y"], **where))


def timestamps(root: Path, write: Callable[[str, str], Path]) -> object:
    pairs(root, np.uint16)
    write("rgb.txt", "1.0 images/a.png\n2.0 images/b.png\n")
    write("depth.txt", "1.0 labels/a.png\n2.0 labels/b.png\n")
    return len(DepthMaps("train", root=str(root), scale=1.0, images="rgb.txt", labels="depth.txt"))


def small_files(root: Path, write: Callable[[str, str], Path]) -> object:
    from densevit.training.run.evaluation_folder import read_mapping

    labelmap = read_labelmap(write("labelmap.txt", "road:1,2,3::\ntree:4,5,6::\n"))
    calibration = Calibration.read(write("calib.txt", "cam0=[1000 0 5; 0 1000 5; 0 0 1]\ndoffs=2\nbaseline=100\n"))
    mapping = read_mapping([str(write("names.yaml", "person: pedestrian\ncar:\n"))])
    return [one["name"] for one in labelmap], calibration, mapping


def index(root: Path, write: Callable[[str, str], Path]) -> object:
    write("index.json", json.dumps({"version": 1, "splits": {}}))
    with pytest.raises(DataError) as caught:
        Shards("train", root=str(root))
    return str(caught.value).partition(" has ")[2]


READERS = {
    list_of_label_maps: 2,
    timestamps: 2,
    index: "no split 'train', only . Fix: data.split=NAME.",
    small_files: (["road", "tree"], Calibration(0.1, 1000.0, 2.0), {"person": "pedestrian", "car": None}),
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_marks_and_carriage_returns_are_not_content(
    reader: Callable[[Path, Callable[[str, str], Path]], object], encoding: str, tmp_path: Path
) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(ENCODED[encoding](text))
        return tmp_path / name

    assert reader(tmp_path, write) == READERS[reader]


def test_a_list_on_stdin_and_a_table_may_have_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\ufeff{tmp_path}/a.png\n"))
    assert [image.path for image in find_images(["-"])] == [tmp_path / "a.png"]
    file = tmp_path / "images-head.csv"
    file.write_bytes(UTF_8 + b"image,score\r\na.png,0.5\r\n")
    assert tables_file.read(file) == [["image", "score"], ["a.png", "0.5"]]
