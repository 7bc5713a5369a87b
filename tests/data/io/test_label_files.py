"""Label files of every kind give the values that were written."""

import cv2
import numpy as np
import pytest
from PIL import Image

from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from tests.data.io.conftest import ORIENTATION, grey_png, turned

VALUES = np.array([[0, 1, 2, 3, 1], [3, 2, 1, 0, 0], [1, 1, 3, 3, 2]], np.uint8)


def indexed(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 9, 9, 9] + [0] * 756)
    return image


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_and_indexed_files_of_any_bit_depth_give_stored_values(bits, tmp_path):
    stored = np.minimum(VALUES, 2**bits - 1)
    (tmp_path / "grey.png").write_bytes(grey_png(stored, bits))
    indexed(stored).save(tmp_path / "indexed.png", bits=bits)
    indexed(stored).save(tmp_path / "transparent.png", transparency=1)
    for path in tmp_path.iterdir():
        assert read_label(path).tolist() == stored.tolist() and label_size_of(path) == (3, 5), path


def test_16_bits_and_other_formats_are_preserved_and_alpha_is_dropped(tmp_path):
    image, deep = Image.fromarray(VALUES), VALUES.astype(np.uint16) * 20000
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    image.save(tmp_path / "a.bmp")
    Image.merge("LA", [image, Image.new("L", (5, 3), 7)]).save(tmp_path / "la.png")
    Image.new("RGBA", (5, 3), (10, 20, 30)).save(tmp_path / "rgba.png")
    colors = np.full((3, 5, 3), (10, 20, 30), np.uint8)
    for name, expected in {"deep.png": deep, "a.bmp": VALUES, "la.png": VALUES, "rgba.png": colors}.items():
        found = read_label(tmp_path / name)
        assert found.dtype == expected.dtype and np.array_equal(found, expected), name


def test_labels_are_rotated_by_their_exif_orientation(tmp_path):
    values = np.arange(15).reshape(3, 5).astype(np.uint8)
    kinds = {"L": values, "P": values, "I;16": values.astype(np.uint16) * 300}
    kinds["RGB"] = np.stack([values, values + 20, values + 40], axis=2)
    cases = ((3, ".tif", "RGB"), (4, ".png", "I;16"), (5, ".tif", "P"), (6, ".png", "L"), (7, ".tif", "I;16"))
    for orientation, suffix, mode in cases:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image = indexed(values) if mode == "P" else Image.fromarray(kinds[mode])
        image.save(tmp_path / f"a{suffix}", exif=exif)
        expected = turned(kinds[mode], orientation)
        assert read_label(tmp_path / f"a{suffix}").tolist() == expected.tolist(), (orientation, mode)
        assert label_size_of(tmp_path / f"a{suffix}") == expected.shape[:2]


def test_files_without_exact_labels_are_named(tmp_path):
    """Pillow cuts colours of 16 bits to 8: 300 would become 1."""
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((3, 5, 3), 300, np.uint16))
    cv2.imwrite(str(tmp_path / "deep.tif"), np.full((3, 5, 4), 300, np.uint16))
    Image.fromarray(VALUES).save(tmp_path / "lossy.jpg")
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(VALUES.astype(np.int32) - 1).save(tmp_path / "negative.tif")
    whole = grey_png(np.random.default_rng(0).integers(0, 9, (200, 200)), 8)
    (tmp_path / "cut.png").write_bytes(whole[:4000])
    (tmp_path / "text.png").write_text("no image")
    for name, facts in {
        "deep.png": "16 bits per channel; expected 8",
        "deep.tif": "16 bits per channel; expected 8",
        "lossy.jpg": "JPEG",
        "float.tif": "mode 'F'",
        "negative.tif": "-1 to 2",
        "cut.png": "cannot be read",
        "text.png": "is not an image",
        "gone.png": "no such",
    }.items():
        with pytest.raises(DataError, match=rf"{name}.*{facts}"):
            read_label(tmp_path / name)
