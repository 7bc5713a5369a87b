"""densevit/data/io/pixel_arrays.py: images have the same pixels as files, bytes, arrays, tensors and Pillow images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from densevit.channels import Channels
from densevit.data.channel_statistics import measured
from densevit.data.io.images import channels_of_files, image_header, read_image
from densevit.inference.array_inputs import as_sample, find_files, images_of
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


def channels_of(source: ImageSource, path: Path) -> Channels:
    return channels_of_files([str(path)], read_data(source, path.parent, "images").section.given_channels)


def _pil(path: Path, channels: Channels) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return read_image(image, channels)
    except UnidentifiedImageError:
        pytest.skip("Pillow does not read this format")


def _file(path: Path, channels: Channels) -> np.ndarray:
    with open(path, "rb") as file:
        return read_image(file, channels)


ONE_FILE = ("bytes", "file", "pil")
DOORS: dict[str, Callable[[Path, Channels], object]] = {
    "path": read_image,
    "bytes": lambda path, channels: read_image(path.read_bytes(), channels),
    "file": _file,
    "pil": _pil,
    "tensor": lambda path, channels: read_image(
        torch.from_numpy(read_image(path, channels)).permute(2, 0, 1), channels
    ),
    "predictor": lambda path, channels: as_sample(path, 0, channels)["image"],
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", SOURCES)
def test_each_door_gives_the_same_pixels(kind, door, tmp_path):
    source = SOURCES[kind]
    if source.name == "_red.tif" and door in ONE_FILE:
        pytest.skip("a file for each channel")
    path = tmp_path / f"0{source.name}"
    expected = source.write(path)
    channels = channels_of(source, path)
    assert channels.is_rgb == (kind == "photo")
    assert image_header(path, channels).upright_size == expected.shape[:2]
    assert same(DOORS[door](path, channels), expected)


SETS: dict[str, tuple[str, dict[str, object]]] = {
    "coco": ("", {}),
    "images": ("{split}/{number}", {}),
    "image_folder": ("{split}/{number}/x", {}),
    "label_maps": ("images/{split}/{number}", {"classes": ["ground", "tree"]}),
    "depth": ("images/{split}/{number}", {"scale": 0.001}),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", SOURCES)
def test_each_data_set_gives_the_same_pixels(kind, name, tmp_path):
    """No warning names a file that is used."""
    source, (pattern, options) = SOURCES[kind], SETS[name]
    written = write_images(source, tmp_path, pattern) if pattern else write_coco(source, tmp_path)
    for path, pixels in written.items():
        label = Path(path.replace("images", "labels")).with_suffix(".png")
        if "labels" in str(label):
            label.parent.mkdir(parents=True, exist_ok=True)
            values = np.full(pixels.shape[:2], 2000, np.uint16) if name == "depth" else np.eye(*pixels.shape[:2])
            cv2.imwrite(str(label), values if name == "depth" else values.astype(np.uint8))
    with no_warning_of_files(tmp_path):
        data = read_data(source, tmp_path, name, **options)
        check_data(data, written)
    if not data.train.channels.range:
        values = np.concatenate([one.reshape(-1, one.shape[2]) for path, one in written.items() if "train" in path])
        ranges = np.nanpercentile(values, (0.1, 99.9), axis=0).T
        np.testing.assert_allclose(measured(data.train).channels.range, ranges, rtol=1e-5)


@pytest.mark.parametrize("kind", SOURCES)
def test_folders_have_each_image_once(kind, tmp_path):
    source = SOURCES[kind]
    written = [path for path in write_images(source, tmp_path, "{split}/{number}") if "train" in path]
    channels, folder = channels_of(source, Path(written[0])), tmp_path / "train"
    assert find_files(str(folder), channels) == written
    assert [*map(str, images_of(folder, channels) or ())] == written
