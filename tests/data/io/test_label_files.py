"""Label files of every kind give the values that were written."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError

VALUES = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 0], [1, 1, 3, 3, 2]], np.uint8)


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of this bit depth, packed by hand: no library writes 2 and 4."""
    height, width = values.shape
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, width * depth).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def indexed(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 9, 9, 9] + [0] * 756)
    return image


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_png_of_any_bit_depth_gives_stored_values(depth: int, tmp_path: Path) -> None:
    stored = np.minimum(VALUES, 2**depth - 1)
    (tmp_path / "a.png").write_bytes(grey_png(stored, depth))
    assert read_label(tmp_path / "a.png").tolist() == stored.tolist()


def test_handwritten_pngs_match_another_reader() -> None:
    stretched = cv2.imdecode(np.frombuffer(grey_png(VALUES, 4), np.uint8), cv2.IMREAD_UNCHANGED)
    assert stretched.tolist() == (VALUES * 17).tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_indexed_png_gives_indices(bits: int, tmp_path: Path) -> None:
    stored = np.minimum(VALUES, 2**bits - 1)
    indexed(stored).save(tmp_path / "a.png", bits=bits)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    assert read_label(tmp_path / "a.png").tolist() == stored.tolist()


def test_indexed_png_with_a_transparent_colour(tmp_path: Path) -> None:
    indexed(VALUES).save(tmp_path / "a.png", transparency=2)
    assert read_label(tmp_path / "a.png").tolist() == VALUES.tolist()


def test_16_bits_are_preserved(tmp_path: Path) -> None:
    deep = VALUES.astype(np.uint16) * 20000
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    read = read_label(tmp_path / "a.png")
    assert read.dtype == np.uint16 and read.tolist() == deep.tolist()


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_other_lossless_formats(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / f"a{suffix}")
    assert read_label(tmp_path / f"a{suffix}").tolist() == VALUES.tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_png_gives_rgb(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (5, 3), (10, 20, 30))
    image.save(tmp_path / "a.png")
    read = read_label(tmp_path / "a.png")
    assert read.shape == (3, 5, 3) and read.dtype == np.uint8
    assert (read == [10, 20, 30]).all()


def test_alpha_is_dropped_from_grey(tmp_path: Path) -> None:
    alpha = Image.new("L", (5, 3), 7)
    Image.merge("LA", [Image.fromarray(VALUES), alpha]).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == VALUES.tolist()


def test_the_size_is_height_and_width(tmp_path: Path) -> None:
    indexed(VALUES).save(tmp_path / "a.png")
    assert label_size_of(tmp_path / "a.png") == (3, 5)


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGB"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_rotated_by_their_exif_orientation(orientation: int, suffix: str, mode: str, tmp_path: Path) -> None:
    """As images are, against Pillow's rotation of the same values without a file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.arange(15).reshape(3, 5)
    kinds = {"L": values.astype(np.uint8), "I;16": values.astype(np.uint16) * 300}
    kinds["RGB"] = np.stack([values, values + 20, values + 40], axis=2).astype(np.uint8)
    image = indexed(values.astype(np.uint8)) if mode == "P" else Image.fromarray(kinds[mode])
    image.save(tmp_path / f"a{suffix}", exif=exif)
    stored = kinds.get(mode, kinds["L"])
    turned = stored if orientation < 5 else stored.swapaxes(0, 1)
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    assert read_label(tmp_path / f"a{suffix}").tolist() == turned.tolist()
    assert label_size_of(tmp_path / f"a{suffix}") == turned.shape[:2]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_tiff_of_few_bits_gives_stored_values(bits: int, tmp_path: Path) -> None:
    """Packed by hand: 3 rows of 5 values, each row in whole bytes."""
    planes = (VALUES[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(planes.reshape(3, 5 * bits).astype(np.uint8), axis=1).tobytes()
    entries = [(256, 4, 5), (257, 4, 3), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 3), (279, 4, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(entries)) + directory + bytes(4))
    assert read_label(tmp_path / "a.tif").tolist() == VALUES.tolist()


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bits_raise(channels: int, tmp_path: Path) -> None:
    """Pillow cuts them to 8 bits: 300 would become 1."""
    for name in ("a.png", "a.tif"):
        cv2.imwrite(str(tmp_path / name), np.full((3, 5, channels), 300, np.uint16))
        with pytest.raises(DataError, match=rf"{name}.*16 bits per channel; expected 8"):
            read_label(tmp_path / name)


def test_jpeg_labels_raise(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: it is a JPEG, whose compression changes label values"):
        read_label(tmp_path / "a.jpg")


def test_floating_point_labels_raise(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: its pixels have the mode 'F'"):
        read_label(tmp_path / "a.tif")


def test_negative_values_raise(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.int32) - 1).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: its values range from -1 to 2"):
        read_label(tmp_path / "a.tif")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (200, 200), np.uint8)).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:4000])
    (tmp_path / "text.png").write_text("no image")
    for name, message in {"cut.png": "cannot be read", "text.png": "no image", "gone.png": "no such"}.items():
        with pytest.raises(DataError, match=rf"{name}.*{message}"):
            read_label(tmp_path / name)
