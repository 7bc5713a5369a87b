"""Image files written byte by byte, following the specifications, as no library writes all of them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

H, W = 37, 53
ORIENTATION = 0x0112  # the tag of EXIF


def png(width: int, height: int, depth: int, rows: bytes = b"", color: int = 0) -> bytes:
    """A PNG of a bit depth and a colour type, 0 for grey, 4 with alpha. rows: each with its filter in front."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(rows) if rows else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def packed(values: np.ndarray, depth: int) -> list[bytes]:
    """The rows of values of a few bits, each in whole bytes, the most significant bit first."""
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(len(values), -1).astype(np.uint8), axis=1)
    return [row.tobytes() for row in rows]


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1 to 16 bits."""
    return png(values.shape[1], values.shape[0], depth, b"".join(b"\0" + row for row in packed(values, depth)))


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of stored values: EXIF 2.32, table 6, where row 0 and column 0 are."""
    shown = values if orientation < 5 else values.swapaxes(0, 1)
    shown = shown[::-1] if orientation in (3, 4, 7, 8) else shown
    return shown[:, ::-1] if orientation in (2, 3, 6, 7) else shown


@pytest.fixture
def pixels():
    """(H, W, 3), noise over a ramp: compressible, and different everywhere."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, H * W * 3).reshape(H, W, 3)
    return (ramp + rng.integers(0, 55, (H, W, 3))).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """`save(image, "PNG", **options)` writes a Pillow image and returns its path. orientation: of EXIF."""

    def save(image: Image.Image | np.ndarray, format: str, orientation: int | None = None, **options: object) -> Path:
        path = tmp_path / f"image.{format.lower()}"
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if orientation is not None:
            options["exif"] = exif = Image.Exif()
            exif[ORIENTATION] = orientation
        image.save(path, format, **options)
        return path

    return save
