"""Reading images of every kind, against known arrays and Pillow."""

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from densevit.data.io.depth_files import depth_size_of, read_depth
from densevit.data.io.images import check_image, read_image
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from densevit.inference.image_inputs import as_sample

H, W = 37, 53


@pytest.fixture
def pixels() -> np.ndarray:
    """(H, W, 3), noise over a ramp: compressible, and different everywhere."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, H * W * 3).reshape(H, W, 3)
    return (ramp + rng.integers(0, 55, (H, W, 3))).astype(np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """`save(image, "PNG", **options)` writes a Pillow image and returns its path."""

    def save(image: Image.Image, format: str, **options: object) -> Path:
        path = tmp_path / f"image.{format.lower()}"
        image.save(path, format, **options)
        return path

    return save


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_round_trip(format: str, pixels: np.ndarray, save: Callable[..., Path]) -> None:
    path = save(Image.fromarray(pixels), format)
    assert np.array_equal(read_image(path), pixels)
    assert check_image(path).upright_size == (H, W)


def test_lossless_webp_round_trips(pixels: np.ndarray, save: Callable[..., Path]) -> None:
    assert np.array_equal(read_image(save(Image.fromarray(pixels), "WEBP", lossless=True)), pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_decoding_matches_pillow_exactly(
    mode: str, options: dict[str, object], pixels: np.ndarray, save: Callable[..., Path]
) -> None:
    path = save(Image.fromarray(pixels).convert(mode), "JPEG", **options)
    assert np.array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


def test_common_images_use_the_fast_decoder(
    pixels: np.ndarray, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densevit.data.io.images.to_rgb", None)
    for format in ("JPEG", "PNG"):
        for mode in ("RGB", "L"):
            read_image(save(Image.fromarray(pixels).convert(mode), format))


def test_grey_is_repeated(pixels: np.ndarray, save: Callable[..., Path]) -> None:
    grey = pixels[..., 0]
    assert np.array_equal(read_image(save(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))


def test_black_and_white_becomes_0_and_255(save: Callable[..., Path]) -> None:
    bits = np.arange(35).reshape(5, 7) % 3 == 0
    assert np.array_equal(read_image(save(Image.fromarray(bits), "PNG"))[..., 1], bits * 255)


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette_images_are_converted_despite_transparency(
    transparency: int | bytes | None, save: Callable[..., Path]
) -> None:
    colors = np.array([[10, 20, 30], [250, 0, 5], [7, 200, 99]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 3, (H, W)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    for format in ("PNG", "GIF"):
        path = save(image, format, **(options if format == "PNG" else {}))
        with Image.open(path) as saved:
            assert saved.mode == "P"
        assert np.array_equal(read_image(path), colors[indices])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped(mode: str, pixels: np.ndarray, save: Callable[..., Path]) -> None:
    image = Image.fromarray(pixels).convert(mode)
    image.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)))
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    expected = pixels if mode == "RGBA" else np.stack([grey] * 3, axis=2)
    assert np.array_equal(read_image(save(image, "PNG")), expected)


def test_cmyk_jpegs_are_converted(save: Callable[..., Path]) -> None:
    cyan, magenta, yellow, black = (tuple(255 * (i == k) for i in range(4)) for k in range(4))
    red, paper = (0, 255, 255, 0), (0, 0, 0, 0)
    colors = {cyan: (0, 255, 255), magenta: (255, 0, 255), yellow: (255, 255, 0), black: (0, 0, 0)}
    for ink, color in (colors | {red: (255, 0, 0), paper: (255, 255, 255)}).items():
        path = save(Image.new("CMYK", (W, H), ink), "JPEG", quality=95)
        with Image.open(path) as image:
            assert image.mode == "CMYK"
        assert np.abs(read_image(path).astype(int) - color).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_values_are_divided_by_257_and_rounded(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [30000, 32768, 65535 - 129, 65535]], np.uint16)
    expected = np.round(values.astype(np.float64) / 257).astype(np.uint8)
    assert expected.tolist() == [[0, 0, 1, 1], [117, 128, 254, 255]]
    grey, color, alpha = (tmp_path / f"{name}{suffix}" for name in ("grey", "color", "alpha"))
    cv2.imwrite(str(grey), values)
    assert np.array_equal(read_image(grey), np.stack([expected] * 3, axis=2))
    cv2.imwrite(str(color), np.stack([values, values[::-1], values[:, ::-1]], axis=2))  # blue, green, red
    assert np.array_equal(read_image(color), np.stack([expected[:, ::-1], expected[::-1], expected], axis=2))
    cv2.imwrite(str(alpha), np.stack([values, values[::-1], values[:, ::-1], values // 2], axis=2))
    assert np.array_equal(read_image(alpha), read_image(color))


def test_16_bit_grey_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 2 1 65535\n" + np.array([257 * 3, 65535], ">u2").tobytes())
    assert read_image(path).tolist() == [[[3, 3, 3], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(
    orientation: int, format: str, pixels: np.ndarray, save: Callable[..., Path]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(pixels), format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert expected.shape[:2] == ((W, H) if orientation >= 5 else (H, W))
    assert np.array_equal(read_image(path), expected)
    assert check_image(path).upright_size == expected.shape[:2]
    if format != "TIFF":
        assert np.array_equal(read_image(path, upright=False), np.asarray(Image.open(path).convert("RGB")))


def test_orientation_6_means_that_the_first_row_is_the_right_side(save: Callable[..., Path]) -> None:
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(save(Image.fromarray(stored), "PNG", exif=exif))[..., 0].tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_of_one_row_or_column_become_tensors(
    orientation: int, shape: tuple[int, int], save: Callable[..., Path]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    path = save(Image.fromarray(stored), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert torch.from_numpy(read_image(path))[..., 0].tolist() == expected.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_16_bit_tiff(orientation: int, save: Callable[..., Path]) -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_image(save(Image.fromarray(values), "TIFF", exif=exif))
    path = save(Image.fromarray(values.astype(np.uint16) * 257), "TIFF", exif=exif)
    assert np.array_equal(read_image(path), upright)
    assert check_image(path).upright_size == upright.shape[:2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_file_error_names_the_file(
    format: str, share: float, pixels: np.ndarray, save: Callable[..., Path]
) -> None:
    path = save(Image.fromarray(pixels), format)
    check_image(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for use in (read_image, check_image):
        with pytest.raises(DataError, match=path.name):
            use(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_and_zero_filled_file_raises(format: str, pixels: np.ndarray, save: Callable[..., Path]) -> None:
    path = save(Image.fromarray(pixels), format)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    for use in (read_image, check_image):
        with pytest.raises(DataError, match=path.name):
            use(path)


@pytest.mark.parametrize("trailer", [bytes(5), bytes(500), b"a camera's own notes" * 20])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_trailing_bytes_are_ignored(format: str, trailer: bytes, pixels: np.ndarray, save: Callable[..., Path]) -> None:
    path = save(Image.fromarray(pixels), format)
    expected = np.asarray(Image.open(path).convert("RGB"))
    path.write_bytes(path.read_bytes() + trailer)
    assert check_image(path).size == (H, W)
    assert np.array_equal(read_image(path), expected)


def test_non_image_error_names_the_file(tmp_path: Path) -> None:
    files = {"text.jpg": b"no image at all", "empty.png": b"", "head.jpg": b"\xff\xd8\xff"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    for name in [*files, "folder.jpg", "missing.jpg"]:
        for use in (read_image, check_image):
            with pytest.raises(DataError, match=name):
                use(tmp_path / name)


# ---- TIFF files of several pages or bands ----


def pages(folder: Path, *sizes: tuple[int, int], mode: str = "L", kinds: tuple[int, ...] = ()) -> Path:
    """A TIFF of grey pages, each filled with its number. kinds: their NewSubfileType, 0 by default."""
    images = []
    for number, (height, width) in enumerate(sizes):
        image = Image.new(mode, (width, height), number)
        image.encoderinfo = {"tiffinfo": {254: kinds[number]}} if kinds else {}
        images.append(image)
    first = images[0].encoderinfo
    images[0].save(folder / "pages.tif", save_all=True, append_images=images[1:], **first)
    return folder / "pages.tif"


READERS = (read_image, check_image, read_label, label_size_of, read_depth, depth_size_of)


@pytest.mark.parametrize("read", READERS)
def test_a_tiff_of_several_pages_is_an_error(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = pages(tmp_path, (4, 5), (4, 5), (4, 5))
    with pytest.raises(DataError, match=r"pages\.tif: it has 3 pages; expected 1.*file of its own"):
        read(path)


@pytest.mark.parametrize("kind", [1, 4])
def test_previews_and_transparency_masks_of_a_tiff_are_no_pages(kind: int, tmp_path: Path) -> None:
    """NewSubfileType, TIFF 6.0, page 36: 1 is a reduced version of another page, 4 a transparency mask."""
    path = pages(tmp_path, (4, 5), (2, 3), kinds=(0, kind))
    with Image.open(path) as image:
        assert image.n_frames == 2
    for read, expected in ((read_image, (4, 5, 3)), (read_label, (4, 5)), (read_depth, (4, 5))):
        assert read(path).shape == expected and not read(path).any()
    assert check_image(path).size == label_size_of(path) == depth_size_of(path) == (4, 5)


def tiff(pixels: np.ndarray, photometric: int, extra: list[int]) -> bytes:
    """An uncompressed TIFF, following the specification. photometric: 1 is grey, 2 RGB.

    pixels: (H, W, C). extra: ExtraSamples, 0 for a band without a meaning, 2 for alpha; none if empty.
    """
    height, width, channels = pixels.shape
    content = pixels.tobytes()
    content += b"\0" * (len(content) % 2)
    bits, sample_format = 8 * pixels.itemsize, 3 if pixels.dtype.kind == "f" else 1
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * channels),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [pixels.nbytes]),
        338: ("H", extra),
        339: ("H", [sample_format] * channels),
    }
    entries = b""
    for tag, (kind, values) in tags.items():
        value = struct.pack(f"<{len(values)}{kind}", *values)
        if len(value) > 4:
            offset, content = 8 + len(content), content + value + b"\0" * (len(value) % 2)
            value = struct.pack("<I", offset)
        if values:
            entries += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(values)) + value.ljust(4, b"\0")
    directory = struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


@pytest.mark.parametrize(
    ("photometric", "extra", "bands"), [(1, [0], 2), (2, [0], 4), (2, [0, 0], 5), (2, [2, 0], 5), (2, [0, 0, 0], 6)]
)
def test_a_tiff_with_further_bands_is_an_error(photometric: int, extra: list[int], bands: int, tmp_path: Path) -> None:
    (tmp_path / "bands.tif").write_bytes(tiff(np.ones((4, 5, bands), np.uint8), photometric, extra))
    for read in READERS:
        with pytest.raises(DataError, match=rf"bands\.tif: it has {bands} bands per pixel.*expected"):
            read(tmp_path / "bands.tif")


@pytest.mark.parametrize(
    ("dtype", "photometric", "extra", "bands"),
    [(np.uint8, 1, [0, 0], 3), (np.uint16, 1, [0], 2), (np.uint16, 2, [0, 0], 5), (np.float32, 2, [], 3)],
)
def test_bands_that_pillow_does_not_know_are_an_error(
    dtype: type, photometric: int, extra: list[int], bands: int, tmp_path: Path
) -> None:
    (tmp_path / "bands.tif").write_bytes(tiff(np.ones((4, 5, bands), dtype), photometric, extra))
    for read in READERS:
        with pytest.raises(DataError, match=r"bands\.tif"):
            read(tmp_path / "bands.tif")


@pytest.mark.parametrize("extra", [[1], [2]])
def test_declared_alpha_of_a_tiff_is_dropped(extra: list[int], tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 4, dtype=np.uint8).reshape(4, 5, 4)
    pixels[..., 3] = 255
    (tmp_path / "alpha.tif").write_bytes(tiff(pixels, 2, extra))
    for read in (read_image, read_label):
        assert np.array_equal(read(tmp_path / "alpha.tif"), pixels[..., :3])


def test_a_tiff_of_12_bits_is_an_error_as_an_image_and_read_as_a_map(tmp_path: Path) -> None:
    """White would become 16 of 255. Two values of 12 bits are three bytes."""
    rows = bytes.fromhex("FFF001 002003")
    entries = [(256, 4, 2), (257, 4, 2), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 2), (279, 4, len(rows))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    content = (
        b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(entries)) + directory + bytes(4)
    )
    path = tmp_path / "deep.tif"
    path.write_bytes(content)
    for read in (read_image, check_image, lambda path: as_sample(Image.open(path), 0)):
        with pytest.raises(DataError, match=r"deep\.tif: it has 12 bits per channel; expected 8 or 16"):
            read(path)
    assert read_label(path).tolist() == read_depth(path).tolist() == [[4095, 1], [2, 3]]


def test_floating_point_pixels_raise(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float\.tiff.*floating-point"):
        read_image(tmp_path / "float.tiff")


def test_invalid_orientation_is_ignored(pixels: np.ndarray, save: Callable[..., Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 42
    path = save(Image.fromarray(pixels), "PNG", exif=exif)
    assert np.array_equal(read_image(path), pixels)


def test_returned_image_is_writable(pixels: np.ndarray, save: Callable[..., Path]) -> None:
    for format in ("PNG", "BMP"):
        assert read_image(save(Image.fromarray(pixels), format)).flags.writeable
