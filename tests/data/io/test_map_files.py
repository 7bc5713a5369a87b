"""Predicted maps as files, read by Pillow and numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from densevit.data.io.map_files import MapFiles
from densevit.interfaces import Class

CLASSES = (Class("road", 7, (128, 64, 128)), Class("sky", 23, (70, 130, 180)), Class("car", 0, (0, 0, 142)))


def write(folder: Path, kind: str, values: Any, classes: tuple[Class, ...] = CLASSES, name: str = "a") -> None:
    MapFiles(folder, {"head": classes}).add("head", name, {kind: values}, {})


def test_label_map_has_file_ids_and_class_colours(tmp_path: Path):
    labels = torch.tensor([[0, 1, 2], [2, 2, 1]], dtype=torch.uint8)
    write(tmp_path, "semantic", labels, name="a.b")
    image = Image.open(tmp_path / "semantic" / "a.b.png")
    assert (image.mode, np.array(image).tolist()) == ("P", [[7, 23, 0], [0, 0, 23]])
    colors = np.array([c.color for c in CLASSES])
    assert np.array_equal(np.array(image.convert("RGB")), colors[labels.numpy()])
    beyond = (Class("road", 1000, (1, 2, 3)), *CLASSES[1:], Class("far", 65535, (1, 2, 4)))
    write(tmp_path, "semantic", labels + 1, beyond, name="town/16.bits")
    image = Image.open(tmp_path / "semantic" / "town" / "16.bits.png")
    assert np.array(image).tolist() == [[23, 0, 65535], [65535, 65535, 0]] and np.array(image).dtype != np.uint8


def test_depth_is_written_as_kitti_png_and_exact_npy(tmp_path: Path):
    depth = torch.tensor([[0, 1e-4, 1, 2.001], [10.5, 80, 255.99, 65535 / 256]])
    write(tmp_path, "depth", depth, ())
    exact = np.load(tmp_path / "depth" / "a.npy")
    assert exact.dtype == np.float32 and np.array_equal(exact, depth.numpy())
    png = np.array(Image.open(tmp_path / "depth" / "a.png"))
    assert png.dtype == np.uint16
    # Known depth is never 0, which means unknown; 2.001 m is 512.256 steps.
    assert png.tolist() == [[0, 1, 256, 512], [2688, 20480, 65533, 65535]]
    write(tmp_path, "inverse_depth", torch.tensor([[-3.5, 2.0]], dtype=torch.bfloat16), ())
    assert [path.name for path in (tmp_path / "inverse_depth").iterdir()] == ["a.npy"]
    assert np.load(tmp_path / "inverse_depth" / "a.npy").tolist() == [[-3.5, 2]]
