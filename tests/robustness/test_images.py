"""Corrupt and unusual image files in a data set: each is refused by name, or read according to the standard."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.data.datasets.coco_dataset import Coco
from densevit.data.io.images import read_image
from densevit.errors import DataError
from tests.robustness.test_coco import document, write

HEIGHT, WIDTH = 40, 56


def pixels(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, channels), np.uint8).squeeze()


def saved(kind: str, values: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(out, kind, **options)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header states a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def overwritten(data: bytes, where: float, count: int, value: int = 0xFF) -> bytes:
    start = int(len(data) * where)
    return data[:start] + bytes([value]) * count + data[start + count :]


JPEG, PNG = encoded("JPEG", quality=95), encoded("PNG")
REFUSED_AT_THE_START = {
    "empty": b"",
    "half of a JPEG": JPEG[: len(JPEG) // 2],
    "a PNG without its end": PNG[:-12],
    "a PNG of 100,000 x 100,000": png_of(100_000, 100_000),
    "floating-point TIFF": saved("TIFF", np.ones((HEIGHT, WIDTH), np.float32)),
    "TIFF of two pages": encoded("TIFF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
    "another size": saved("PNG", pixels()[:-1]),
}
REFUSED_WHEN_READ = {
    "half of a JPEG that ends as one": JPEG[: len(JPEG) // 2] + b"\xff\xd9",
    "a PNG with a wrong check sum": overwritten(PNG, 0.5, 3),
}
READ = {
    "grey JPEG": encoded("JPEG", "L"),
    "CMYK JPEG": encoded("JPEG", "CMYK"),
    "PNG with alpha": encoded("PNG", "RGBA"),
    "PNG of 16 bits": saved("PNG", pixels(1).astype(np.uint16) * 257),
}


def replaced(folder: Path, data: bytes) -> None:
    write(folder, document())
    (folder / "train" / "0.png").write_bytes(data)


@pytest.mark.parametrize("case", REFUSED_AT_THE_START)
def test_corrupt_image_is_refused_before_training(case, refused, tmp_path):
    replaced(tmp_path, REFUSED_AT_THE_START[case])
    refused("train", "tiny.yaml", "data.root=.", says=("train/0.png",))


def test_corrupt_pixel_data_stops_training_with_a_message(refused, tmp_path):
    """Its beginning and end are valid; decoding all images first would take as long as an epoch."""
    replaced(tmp_path, REFUSED_WHEN_READ["half of a JPEG that ends as one"])
    arguments = ("data.root=.", "data.batch_size=2", "data.num_workers=1", "--run-dir", "run")
    error = refused("train", "tiny.yaml", *arguments, says=("train/0.png", "damaged", "premature end"))
    assert len([line for line in error.splitlines() if not line.startswith("warning: ")]) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("case", REFUSED_WHEN_READ)
def test_corruption_is_found_by_decoding(case, tmp_path):
    path = tmp_path / "0.jpg"
    path.write_bytes(REFUSED_WHEN_READ[case])
    with pytest.raises(DataError, match=r"0\.jpg cannot be read: .*Is the file damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("case", READ)
def test_unusual_image_is_accepted(case, tmp_path):
    replaced(tmp_path, READ[case])
    image = Coco("train", str(tmp_path))[0]["image"]
    assert image.shape == (3, HEIGHT, WIDTH) and image.float().std() > 10


@pytest.mark.parametrize("kind", ["folder", "loop", "dangling link"])
def test_non_file_is_refused(kind: str, refused, tmp_path):
    write(tmp_path, document())
    path = tmp_path / "train" / "0.png"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else "nowhere.png")
    refused("train", "tiny.yaml", "data.root=.", says=("train/0.png",))
