"""Depth files, written byte by byte or by other libraries, are read exactly."""

import io
import os
import struct
import sys
import types
import zlib
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from PIL import Image

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.errors import DataError

DEPTH = np.array([[0.5, 1.25, 2, 4], [0, 80, 1e-3, 3], [7, 9, 11, 1000]], np.float32)  # 3 high, 4 wide
WHOLE = np.array([[0, 1, 255, 256], [65535, 40000, 2, 3], [4, 5, 6, 7]], np.uint16)


def png(values: np.ndarray) -> bytes:
    """A grey PNG following the specification: 8 or 16 bits, most significant byte first."""
    bits = 8 * values.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exr(channels: dict[str, np.ndarray]) -> bytes:
    """An uncompressed scan-line EXR of float channels, following the documented file layout."""
    height, width = next(iter(channels.values())).shape
    names = sorted(channels)

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value

    listed = b"".join(name.encode() + b"\0" + struct.pack("<iBBBBii", 2, 0, 0, 0, 0, 1, 1) for name in names) + b"\0"
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<ii", 20000630, 2) + b"".join(
        [
            attribute("channels", "chlist", listed),
            attribute("compression", "compression", b"\0"),
            attribute("dataWindow", "box2i", window),
            attribute("displayWindow", "box2i", window),
            attribute("lineOrder", "lineOrder", b"\0"),
            attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
            attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
            b"\0",
        ]
    )
    rows = []
    for y in range(height):
        pixels = b"".join(channels[name][y].astype("<f4").tobytes() for name in names)
        rows.append(struct.pack("<ii", y, len(pixels)) + pixels)
    starts = np.cumsum([0] + [len(row) for row in rows[:-1]]) + len(header) + 8 * height
    return header + struct.pack(f"<{height}Q", *starts.tolist()) + b"".join(rows)


def pfm(values: np.ndarray, scale: str, space: str = "\n") -> bytes:
    order = "<" if scale.startswith("-") else ">"
    header = space.join(["Pf", f"{values.shape[1]} {values.shape[0]}", scale]) + "\n"
    return header.encode() + values[::-1].astype(f"{order}f4").tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def npy(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=version)
    return file.getvalue()


def tiff(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return file.getvalue()


FILES = {
    "8 bit.png": (png((WHOLE % 256).astype(np.uint8)), WHOLE % 256),
    "16 bit.PNG": (png(WHOLE), WHOLE),
    "opencv.png": (cv2.imencode(".png", WHOLE)[1].tobytes(), WHOLE),
    "float.tif": (tiff(DEPTH), DEPTH),
    "opencv.tiff": (cv2.imencode(".tiff", DEPTH)[1].tobytes(), DEPTH),
    "16 bit.tiff": (tiff(WHOLE), WHOLE),
    "single.npy": (npy(DEPTH), DEPTH),
    "double.npy": (npy(DEPTH.astype(np.float64)), DEPTH),
    "half.npy": (npy(DEPTH.astype(np.float16)), DEPTH.astype(np.float16)),
    "whole.npy": (npy(WHOLE), WHOLE),
    "version 2.npy": (npy(DEPTH, (2, 0)), DEPTH),
    "by columns.npy": (npy(np.asfortranarray(DEPTH)), DEPTH),
    "channel last.npy": (npy(DEPTH[..., None]), DEPTH),
    "channel first.npy": (npy(DEPTH[None]), DEPTH),
    "truth.npy": (npy(DEPTH > 1), DEPTH > 1),
    "one.npz": (npz(depth=DEPTH), DEPTH),
    "little.pfm": (pfm(DEPTH, "-1.0"), DEPTH),
    "big.pfm": (pfm(DEPTH, "1"), DEPTH),
    "scale is no unit.pfm": (pfm(DEPTH, "-0.003922"), DEPTH),
    "spaces.pfm": (pfm(DEPTH, "-1", " "), DEPTH),
}


@pytest.mark.parametrize("name", FILES)
def test_each_format_gives_exact_values_and_header_size(name: str, tmp_path: Path) -> None:
    data, expected = FILES[name]
    (tmp_path / name).write_bytes(data)
    values = read_depth(tmp_path / name)
    assert values.dtype.kind in "iu" or values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    assert depth_size_of(tmp_path / name) == (3, 4)


def turned(values: np.ndarray, orientation: int) -> list[list[float]]:
    """What a viewer shows: EXIF 2.32, table 6, where row 0 and column 0 of the stored values are."""
    rows = values.tolist()
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {
        1: rows,  # top, left
        2: [row[::-1] for row in rows],  # top, right
        3: [row[::-1] for row in rows[::-1]],  # bottom, right
        4: rows[::-1],  # bottom, left
        5: columns,  # left, top
        6: [column[::-1] for column in columns],  # right, top
        7: [column[::-1] for column in columns[::-1]],  # right, bottom
        8: columns[::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_depth_is_rotated_by_its_exif_orientation(orientation: int, suffix: str, dtype: type, tmp_path: Path) -> None:
    """As images are. Pillow 13 mixes up the rows of uncompressed TIFFs that are read from a file's path."""
    if suffix == ".png" and dtype in (np.int32, np.float32):
        return
    values, exif = np.arange(1, 16).reshape(3, 5).astype(dtype), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / f"a{suffix}", exif=exif)
    expected = turned(values, orientation)
    assert read_depth(tmp_path / f"a{suffix}").tolist() == expected
    assert depth_size_of(tmp_path / f"a{suffix}") == (len(expected), len(expected[0]))


def test_middlebury_infinite_disparities_are_preserved(tmp_path: Path) -> None:
    (tmp_path / "a.pfm").write_bytes(pfm(np.array([[np.inf, 2.0]]), "-1"))
    assert read_depth(tmp_path / "a.pfm").tolist() == [[np.inf, 2.0]]


def test_npz_array_is_selected_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz(depth=DEPTH, mask=DEPTH > 0, photo=np.zeros((3, 4, 3))))
    assert read_depth(tmp_path / "a.npz", "depth").tolist() == DEPTH.tolist()
    assert depth_size_of(tmp_path / "a.npz", "mask") == (3, 4)
    for look in (read_depth, depth_size_of):
        with pytest.raises(DataError, match=r"a\.npz: which of them is the depth\? .*depth, mask, photo.*data\.key"):
            look(tmp_path / "a.npz")
        with pytest.raises(DataError, match=r"there is no array 'Z'"):
            look(tmp_path / "a.npz", "Z")
        with pytest.raises(DataError, match=r"shape \(3, 4, 3\); expected \(H, W\)"):
            look(tmp_path / "a.npz", "photo")


WRONG = {
    "colours.png": (cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes(), "its pixels are colours"),
    "cut.png": (png(WHOLE)[:60], "cannot be read"),
    "none.png": (b"not an image", "is not an image"),
    "cut.npy": (npy(DEPTH)[:-4], "cannot be read"),
    "text.npy": (npy(np.array([["a", "b"]])), "it holds <U1; expected numbers"),
    "empty.npy": (npy(np.zeros((0, 4))), r"shape \(0, 4\)"),
    "objects.npy": (npy(np.array([[None]])), "it holds object; expected numbers"),
    "cut.npz": (npz(depth=DEPTH)[:-30], "cannot be read"),
    "cut.pfm": (pfm(DEPTH, "-1")[:-1], "ends after 47 of 48 bytes"),
    "colours.pfm": (b"PF\n2 1\n-1\n" + bytes(24), r"PFM in colours"),
    "none.pfm": (b"P5 2 2 255\n", "not a PFM"),
    "noise.pfm": (bytes(range(65, 91)) * 20, "no header|not a PFM header"),
    "a.bin": (b"", "is not a depth file; expected one of .png"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_file_error_names_file_and_reason(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_depth(tmp_path / name)


def test_palette_and_missing_file_raise(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).convert("P").save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: its pixels are a palette's indices.*drawn in colours"):
        read_depth(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"b\.png: there is no such depth file"):
        depth_size_of(tmp_path / "b.png")


# ---- EXR ----


def test_exr_size_needs_no_package(tmp_path: Path) -> None:
    (tmp_path / "a.exr").write_bytes(exr({"Z": DEPTH}))
    assert depth_size_of(tmp_path / "a.exr") == (3, 4)
    (tmp_path / "b.exr").write_bytes(b"no")
    with pytest.raises(DataError, match=r"b\.exr: it is not an EXR file"):
        depth_size_of(tmp_path / "b.exr")


def test_missing_exr_package_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "a.exr").write_bytes(exr({"Z": DEPTH}))
    with pytest.raises(DataError, match=r"a\.exr: EXR files need .*pip install 'OpenEXR>=3\.3'"):
        read_depth(tmp_path / "a.exr")
    monkeypatch.setitem(sys.modules, "OpenEXR", types.ModuleType("OpenEXR"))
    with pytest.raises(DataError, match=r"too old; expected 3\.3"):
        read_depth(tmp_path / "a.exr")


HALF = DEPTH.astype(np.float16)
EXR = [
    ({"Y": DEPTH}, None),
    ({"Z": HALF}, None),
    ({"R": DEPTH * 0, "G": DEPTH * 0, "B": DEPTH * 0, "Z": DEPTH}, None),
    ({"ViewLayer.Depth.Z": DEPTH, "ViewLayer.Combined.R": HALF * 0}, None),
    ({"R": HALF, "G": HALF, "B": HALF}, None),
    ({"R": DEPTH, "G": DEPTH * 0, "B": DEPTH * 0}, "R"),
    ({"V": DEPTH, "W": DEPTH * 0}, "V"),
    ({"depth": DEPTH, "Y": DEPTH * 0}, None),
    ({"Y": HALF, "Z": HALF * 0}, "Y"),
    ({"Y": WHOLE.astype(np.uint32)}, None),
]


@pytest.mark.parametrize(("channels", "key"), EXR)
@pytest.mark.parametrize("compression", ["NO_COMPRESSION", "ZIP_COMPRESSION", "PIZ_COMPRESSION"])
def test_exr_files_of_the_package_are_read_exactly(
    channels: dict[str, np.ndarray], key: str | None, compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.exr"
    write_exr(path, channels, compression)
    expected = channels[key] if key else next(one for one in channels.values() if one.any())
    values = read_depth(path, key)
    assert values.dtype == (np.float32 if expected.dtype.kind == "f" else np.uint32)
    np.testing.assert_array_equal(values, expected)
    assert depth_size_of(path, key) == (3, 4)


@pytest.mark.parametrize(("channels", "key"), [(channels, key) for channels, key in EXR if "Y" not in channels])
def test_handwritten_exr_is_read_exactly(channels: dict[str, np.ndarray], key: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.exr").write_bytes(exr(channels))
    expected = channels[key] if key else next(one for one in channels.values() if one.any())
    assert read_depth(tmp_path / "a.exr", key).tolist() == expected.tolist()


def test_unknown_exr_depth_is_unchanged(tmp_path: Path) -> None:
    """Renderers write infinity, 65504 or 1e10 where a ray hits nothing; Blender writes 1e10."""
    values = np.array([[np.inf, 1e10, 2]], np.float32)
    write_exr(tmp_path / "a.exr", {"Z": values})
    assert read_depth(tmp_path / "a.exr").tolist() == values.tolist()


@pytest.mark.parametrize(
    ("channels", "key", "message"),
    [
        ({"R": DEPTH, "G": DEPTH * 2, "B": DEPTH}, None, r"which of them is the depth\? It holds B, G, R\. Name the"),
        ({"R": HALF, "G": HALF, "B": HALF}, "Z", r"there is no channel 'Z'\. It holds B, G, R\. Name the channel"),
        ({"Y": DEPTH}, "Z", r"there is no channel 'Z'\. It holds Y\. Name the channel with data\.key"),
        ({"left.Z": DEPTH, "right.Z": DEPTH}, None, r"which of them is the depth\? It holds left\.Z, right\.Z"),
    ],
)
def test_missing_channel_error_lists_the_channels(
    channels: dict[str, np.ndarray], key: str | None, message: str, tmp_path: Path
) -> None:
    write_exr(tmp_path / "a.exr", channels)
    with pytest.raises(DataError, match=rf"a\.exr: {message}"):
        read_depth(tmp_path / "a.exr", key)


def test_truncated_exr_raises(tmp_path: Path) -> None:
    write_exr(tmp_path / "a.exr", {"Z": np.tile(DEPTH, (50, 50))})
    whole = (tmp_path / "a.exr").read_bytes()
    (tmp_path / "a.exr").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.exr cannot be read: .*damaged or cut short"):
        read_depth(tmp_path / "a.exr")


def write_exr(path: Path, channels: dict[str, np.ndarray], compression: str = "ZIP_COMPRESSION") -> None:
    """With the OpenEXR package, which the extras exr and test install."""
    header = {"compression": getattr(OpenEXR, compression), "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, dict(channels)).write(os.fspath(path))
