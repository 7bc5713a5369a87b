"""Depth files, written byte by byte or by other libraries, are read exactly."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.errors import DataError
from tests.data.io.conftest import grey_png

DEPTH = np.array([[0.5, 1.25, 2, 4], [0, 80, 1e-3, 3], [7, 9, 11, 1000]], np.float32)  # 3 high, 4 wide
UNKNOWN = np.where(DEPTH == 2, np.inf, 1e10 * DEPTH).astype(np.float32)
BEGINS_WITH_LF = np.frombuffer(b"\n" + bytes([1, 2, 64]) * 16, "<f4", 12).reshape(3, 4)[::-1]  # of the stored rows
WHOLE = np.array([[0, 1, 255, 256], [65535, 40000, 2, 3], [4, 5, 6, 7]], np.uint16)


def pfm(values: np.ndarray, scale: str, space: str = "\n", end: str = "\n") -> bytes:
    order = "<" if scale.startswith("-") else ">"
    header = space.join(["Pf", f"{values.shape[1]} {values.shape[0]}", scale]) + end
    return header.encode() + values[::-1].astype(f"{order}f4").tobytes()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def write_exr(path: Path, channels: dict[str, np.ndarray], compression: str = "ZIP_COMPRESSION") -> None:
    """With the OpenEXR package, which the extras exr and test install."""
    header = {"compression": getattr(OpenEXR, compression), "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, dict(channels)).write(os.fspath(path))


FILES = {
    "8 bit.png": (grey_png(WHOLE % 256, 8), WHOLE % 256),
    **{f"{bits} bit.png": (grey_png(WHOLE % 2**bits, bits), WHOLE % 2**bits) for bits in (1, 2, 4)},
    "16 bit.PNG": (grey_png(WHOLE, 16), WHOLE),
    "float.tiff": (cv2.imencode(".tiff", DEPTH)[1].tobytes(), DEPTH),
    "16 bit.tif": (cv2.imencode(".tiff", WHOLE)[1].tobytes(), WHOLE),
    "double.npy": (npy(DEPTH.astype(np.float64)), DEPTH),
    "whole.npy": (npy(WHOLE), WHOLE),
    "channel last.npy": (npy(DEPTH[..., None]), DEPTH),
    "one.npz": (npz(depth=DEPTH), DEPTH),
    "big.pfm": (pfm(DEPTH, "1"), DEPTH),
    "scale is no unit.pfm": (pfm(DEPTH, "-0.003922"), DEPTH),
    "spaces and unknown.pfm": (pfm(UNKNOWN, "-1", " "), UNKNOWN),
    "comment.pfm": (pfm(DEPTH, "+1e0", "\n# 7 9 metres\n"), DEPTH),
    "carriage returns.pfm": (pfm(DEPTH, "-1", "\r\n", "\r\n"), DEPTH),
    "carriage returns and a rest.pfm": (pfm(DEPTH, "1", "\r\n", "\r\n") + b"\r\n", DEPTH),
    "a carriage return alone.pfm": (pfm(BEGINS_WITH_LF, "-1", "\r", "\r"), BEGINS_WITH_LF),
}


def test_each_format_gives_exact_values_and_header_size(tmp_path):
    for name, (data, expected) in FILES.items():
        (tmp_path / name).write_bytes(data)
        values = read_depth(tmp_path / name)
        assert values.dtype.kind in "iu" or values.dtype == np.float32, name
        np.testing.assert_array_equal(values, expected, name)
        assert depth_size_of(tmp_path / name) == (3, 4), name


def test_npz_array_is_selected_by_name(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(depth=DEPTH, mask=DEPTH > 0, photo=np.zeros((3, 4, 3))))
    assert read_depth(tmp_path / "a.npz", "depth").tolist() == DEPTH.tolist()
    assert depth_size_of(tmp_path / "a.npz", "mask") == (3, 4)
    for key, facts in ((None, r"which of them .*depth, mask, photo.*data\.key"), ("Z", "there is no array 'Z'")):
        with pytest.raises(DataError, match=rf"a\.npz: {facts}"):
            read_depth(tmp_path / "a.npz", key)


WRONG = {
    "colours.png": (cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes(), "its pixels are colours"),
    "cut.npy": (npy(DEPTH)[:-4], "cannot be read"),
    "text.npy": (npy(np.array([["a", "b"]])), "it holds <U1; expected numbers"),
    "cut.pfm": (pfm(DEPTH, "-1")[:-1], "cannot be read: buffer is smaller"),
    "colours.pfm": (b"PF\n2 1\n-1\n" + bytes(24), "not a PFM of one number per pixel"),
    "none.exr": (b"no", "cannot be read"),
    "a.bin": (b"", "is not a depth file; expected one of .png"),
}


def test_invalid_file_error_names_file_and_reason(tmp_path):
    for name, (data, message) in WRONG.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            read_depth(tmp_path / name)
    with pytest.raises(DataError, match=r"gone\.png: there is no such depth file"):
        depth_size_of(tmp_path / "gone.png")


HALF = DEPTH.astype(np.float16)


CHANNELS: tuple[tuple[dict[str, np.ndarray], str | None, str], ...] = (  # the first that is not 0 is read
    ({"R": DEPTH * 0, "G": DEPTH * 0, "B": DEPTH * 0, "Z": DEPTH}, None, "PIZ_COMPRESSION"),
    ({"R": HALF, "G": HALF, "B": HALF}, None, "NO_COMPRESSION"),
    ({"Y": WHOLE.astype(np.uint32)}, None, "ZIP_COMPRESSION"),
)


def test_exr_files_of_the_package_are_read_exactly(tmp_path):
    path = tmp_path / "a.exr"
    for channels, key, compression in CHANNELS:
        write_exr(path, channels, compression)
        expected = next(one for one in channels.values() if one.any())
        values = read_depth(path, key)
        assert values.dtype == (np.float32 if expected.dtype.kind == "f" else np.uint32)
        np.testing.assert_array_equal(values, expected)
        assert depth_size_of(path, key) == (3, 4)
    for channels, key, facts in (
        ({"R": DEPTH, "G": DEPTH * 2, "B": DEPTH}, None, r"which of them .*B, G, R"),
        ({"Y": DEPTH}, "Z", r"no channel 'Z'.*Y\. .*data\.key"),
    ):
        write_exr(path, channels)
        with pytest.raises(DataError, match=rf"a\.exr: .*{facts}"):
            read_depth(path, key)
