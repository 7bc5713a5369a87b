"""Images of each kind that data sets have, with their pixels as `read_image` returns them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import OpenEXR
import tifffile
from PIL import Image, ImageOps

from densevit import config as configs
from densevit.data.data_splits import DataSplits
from tests.recorded_warnings import recorded_warnings

H, W = 48, 64
SPLITS = ("train", "val")
NODATA = -9999


class ImageSource(NamedTuple):
    """name: the end of the file's name. write: writes a file and returns its pixels (H, W, C), upright; NaN is missing.
    keys: those of `data` that describe the channels."""

    name: str
    write: Callable[[Path], np.ndarray]
    keys: Mapping[str, Any] = {}


def _values(path: Path, count: int, low: int = 0, high: int = 9000) -> np.ndarray:
    seed = sum(path.parent.name.encode() + path.name.encode())
    return np.random.default_rng(seed).integers(low, high, (H, W, count))


def _photo(path: Path) -> np.ndarray:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_values(path, 3, 0, 256).astype(np.uint8)).save(path, exif=exif)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def _tiff(path: Path, values: np.ndarray, expected: np.ndarray | None = None, **options: Any) -> np.ndarray:
    defaults = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, values, **(defaults | options))
    return values if expected is None else expected


def _with_gaps(path: Path, dtype: type, **options: Any) -> np.ndarray:
    values = _values(path, 2, -3000, 3000).astype(dtype)
    values[5:9, 7:20] = NODATA
    return _tiff(path, values, np.where(values == NODATA, np.nan, values).astype(np.float32), **options)


def _npy(path: Path) -> np.ndarray:
    values = _values(path, 4).astype(np.float32)
    np.save(path, values)
    return values


def _exr(path: Path) -> np.ndarray:
    values = _values(path, 2).astype(np.float32)
    planes = {name: np.ascontiguousarray(values[..., i]) for i, name in enumerate(("R", "nir"))}
    OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, planes).write(str(path))
    return values


def _file_per_channel(path: Path) -> np.ndarray:
    values = _values(path, 3).astype(np.uint16)
    for i, end in enumerate(("_red", "_nir", "_swir")):
        _tiff(Path(str(path).replace("_red", end)), values[..., i], planarconfig=None)
    return values


def _palette(path: Path) -> np.ndarray:
    values = _values(path, 1, 0, 4)[..., 0].astype(np.uint8)
    colors = np.array([[0, 0, 0], [250, 10, 20], [30, 240, 40], [50, 60, 230]], np.uint8)
    image = Image.fromarray(values, "P")
    image.putpalette(colors.tobytes())
    image.save(path)
    return colors[values]


FOUR = {"channels": ["red", "green", "blue", "nir"]}
SOURCES = {
    "photo": ImageSource(".jpg", _photo),
    "bands": ImageSource(".tif", lambda path: _tiff(path, _values(path, 4).astype(np.uint16)), FOUR),
    "int16": ImageSource(".tif", lambda path: _with_gaps(path, np.int16), {"channels": ["vv", "vh"], "nodata": NODATA}),
    "gaps by a tag": ImageSource(
        ".tif",
        lambda path: _with_gaps(path, np.float32, extratags=[(42113, "s", 0, str(NODATA), True)]),
        {"channels": ["vv", "vh"]},
    ),
    "npy": ImageSource(".npy", _npy, FOUR),
    "exr": ImageSource(".exr", _exr, {"channels": ["red", "nir"]}),
    "a file per channel": ImageSource(
        "_red.tif", _file_per_channel, {"channels": {"red": "_red", "nir": "_nir", "swir": "_swir"}}
    ),
    "palette": ImageSource(".png", _palette, {"channels": ["red", "green", "blue"], "range": [0, 200]}),
}


def write_images(source: ImageSource, root: Path, pattern: str) -> dict[str, np.ndarray]:
    """Writes two images of each split. pattern: of their paths, with {split} and {number}. Returns pixels by path."""
    written = {}
    for split in SPLITS:
        for number in range(2):
            path = root / (pattern.format(split=split, number=number) + source.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            written[str(path)] = source.write(path)
    return written


def write_coco(source: ImageSource, root: Path) -> dict[str, np.ndarray]:
    """Writes a data set in COCO's format with a box in each image."""
    images = write_images(source, root, "{split}/{number}")
    for split in SPLITS:
        of_split = {Path(path).name: pixels for path, pixels in images.items() if f"/{split}/" in path}
        listed = [
            {"id": i, "file_name": name, "width": pixels.shape[1], "height": pixels.shape[0]}
            for i, (name, pixels) in enumerate(of_split.items())
        ]
        boxes = [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0} for i in (0, 1)
        ]
        document = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "tree"}]}
        (root / f"{split}.json").write_text(json.dumps(document))
    return images


def read_data(source: ImageSource, root: Path, name: str, **options: Any) -> DataSplits:
    """The data in a folder, with the keys of the source."""
    return DataSplits(
        configs.section("data", {"name": name, "root": str(root), **source.keys, **options}, "test"), 0, 8
    )


def same(found: Any, expected: np.ndarray) -> bool:
    """Whether a tensor (C, H, W) or an array (H, W, C) has the pixels, and missing pixels at the same places."""
    pixels = found if isinstance(found, np.ndarray) else found.permute(1, 2, 0).numpy()
    return pixels.dtype == expected.dtype and np.array_equal(pixels, expected, equal_nan=expected.dtype.kind == "f")


@contextmanager
def no_warning_of_files(folder: Path) -> Iterator[None]:
    """Checks that no warning names a file or a folder below this one."""
    with recorded_warnings() as messages:
        yield
    assert [text for text in messages if str(folder) in text] == []


def check_data(data: DataSplits, written: Mapping[str, np.ndarray]) -> None:
    """Checks that both splits have all written images, with their pixels."""
    for split, dataset in (("train", data.train), ("val", data.val)):
        expected = [pixels for path, pixels in written.items() if split in Path(path).parts]
        images = [dataset[index]["image"] for index in range(len(dataset))]
        assert len(images) == len(expected)
        assert all(any(same(image, pixels) for image in images) for pixels in expected)
