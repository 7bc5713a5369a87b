"""Images beyond Pillow's limit against decompression bombs. The limit is lowered instead of using large images."""

import io
import struct
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import image_header, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from densevit.inference.image_inputs import as_sample
from tests.data.io.conftest import png

H, W = 37, 53
SAVED: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.gif": {},
    "a.webp": {"lossless": True},  # checks the limit itself
    "a.jpg": {"quality": 95},
    "a.tif": {"compression": "tiff_lzw"},
}


@pytest.fixture(params=[1500, 10], ids=["warned of", "refused"])
def limit(request, monkeypatch):
    """Pillow's limit: it warns of 37 x 53 pixels or, above twice the limit, refuses them. No warning may be issued."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield request.param
    assert request.param == Image.MAX_IMAGE_PIXELS


def refused_by_pillow(path: Path) -> bool:
    try:
        with Image.open(path):
            return False
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True


def test_large_images_are_read(tmp_path, limit):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    for name, options in SAVED.items():
        path, pixels, image = tmp_path / name, noise, Image.fromarray(noise)
        if path.suffix == ".gif":
            image = image.quantize(8)
            pixels = np.asarray(image.convert("RGB"))
        image.save(path, **options)
        assert refused_by_pillow(path)
        found = read_image(path)
        assert np.array_equal(found, pixels) or (path.suffix == ".jpg" and found.shape == pixels.shape), name
        assert image_header(path).upright_size == image_header(path).size == (H, W)
        assert np.array_equal(as_sample(path, 1)["image"].permute(1, 2, 0).numpy(), found)
        assert refused_by_pillow(path), "others keep Pillow's limit"


def test_large_labels_and_depth_maps_are_read(tmp_path, limit):
    values = np.arange(H * W).reshape(H, W)
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        Image.fromarray(values.astype(np.uint8)).save(path)
        assert np.array_equal(read_label(path), values.astype(np.uint8)) and label_size_of(path) == (H, W)
        Image.fromarray(values.astype(np.uint16)).save(path)
        assert np.array_equal(read_depth(path), values) and depth_size_of(path) == (H, W)


def test_concurrent_reads_restore_the_limit(tmp_path, limit):
    for k in range(16):
        Image.new("RGB", (W, H), (k, k, k)).save(tmp_path / f"{k}.tif")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda k: int(read_image(tmp_path / f"{k % 16}.tif").max()), range(64)))
    assert found == [k % 16 for k in range(64)]


def test_unreadable_file_error_names_size_and_limit(tmp_path):
    """The limits of OpenCV, CV_IO_MAX_IMAGE_PIXELS and _WIDTH."""
    for size in ((40_000, 40_000), (2_000_000, 10)):
        (tmp_path / "big.png").write_bytes(png(*size, depth=1))
        facts = rf"big\.png: it has {size[0]} x {size[1]} .*1,073,741,824 .*1,048,576 on a side"
        for read in (read_image, image_header, read_label, label_size_of, read_depth, depth_size_of):
            with pytest.raises(DataError, match=facts) as caught:
                read(tmp_path / "big.png")
            assert "damaged" not in str(caught.value)


def test_insufficient_memory_raises(tmp_path, monkeypatch):
    def decode(*_: Any) -> None:
        raise MemoryError

    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    monkeypatch.setattr("densevit.data.io.rgb_files._decode_fast", decode)
    with pytest.raises(DataError, match=r"a\.png: it has 53 x 37 pixels, which do not fit into") as caught:
        read_image(tmp_path / "a.png")
    assert "damaged" not in str(caught.value)


def npy(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """An NPY of a header alone, following numpy's format description."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("depth.npy", npy(shape))
    return file.getvalue()


def exr(width: int, height: int) -> bytes:
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    return b"\x76\x2f\x31\x01\x02\0\0\0dataWindow\0box2i\0" + struct.pack("<i", 16) + window + b"\0"


HUGE = {
    "a.npy": npy((40_000, 40_000)),
    "b.npy": npy((1, 40_000, 40_000)),
    "side.npy": npy((1, 2**20 + 1)),
    "a.npz": npz((40_000, 40_000)),
    "a.pfm": b"Pf\n40000 40000\n-1.0\n",
    "a.exr": exr(40_000, 40_000),
}


def test_depth_files_are_refused_by_the_size_that_they_announce(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "load", None)
    for name, content in HUGE.items():
        (tmp_path / name).write_bytes(content)
        for read in (read_depth, depth_size_of):
            with pytest.raises(DataError, match=rf"{name}: it has .* pixels; at most 1,073,741,824 can .* 1,048,"):
                read(tmp_path / name)
    (tmp_path / "a.pfm").write_bytes(b"Pf\n-4 3\n-1.0\n" + bytes(48))
    with pytest.raises(DataError, match=r"a\.pfm: it has -4 x 3 pixels; expected 1 or more"):
        read_depth(tmp_path / "a.pfm")


def test_depth_arrays_are_refused_by_the_values_that_they_announce(tmp_path):
    for kind in ("<U1000000", "|O"):
        (tmp_path / "a.npy").write_bytes(npy((1000, 1000), kind) + b"few")
        with pytest.raises(DataError, match=r"a\.npy: it holds .*; expected numbers"):
            read_depth(tmp_path / "a.npy")
