"""`densevit predict` of a TIFF that is read by rows of windows: the same maps as of the image in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from densevit.channels import RGB, Channels
from densevit.cli import main
from densevit.config import BackboneSection, HeadSection, ModelSections
from densevit.data.io import large_tiff
from densevit.data.io.images import read_image
from densevit.data.io.large_tiff import LargeTiff
from densevit.errors import UnreadableFileError
from densevit.inference.predictor import Predictor
from densevit.model import DenseModel
from tests.cli.stand_in import read
from tests.model.small_models import CLASSES, Boxes, Depth, Segmenter, Stem

BANDS = Channels(("blue", "green", "red", "nir"), "uint16", ((0.0, 4000.0),) * 4)
CPU = torch.device("cpu")


class Bands(Stem):
    """A padded convolution of the channels."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        count = len(channels.names)
        self.mean, self.std = (0.5,) * count, (0.25,) * count
        self.layer = nn.Conv2d(count, 6, 9, 4, padding=4)


def predictor(channels: Channels, **heads: Any) -> Predictor:
    torch.manual_seed(2)
    stem = Bands(channels)
    kinds = {name: head((6,), (4,), () if head is Depth else CLASSES) for name, head in heads.items()}
    backbone = BackboneSection(name="x", channels=channels)
    sections = ModelSections(backbone=backbone, heads={name: HeadSection(name="x") for name in heads})
    return Predictor(DenseModel(stem, kinds, sections=sections).eval())


def image(channels: Channels, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256 if channels.is_rgb else 4000, (height, width, len(channels.names))).astype(
        channels.dtype
    )


FORMS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 32), "compression": "zlib", "predictor": True},
    "uncompressed tiles": {"tile": (32, 64)},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "uncompressed strips": {"rowsperstrip": 16},
    "big-endian tiles": {"byteorder": ">", "tile": (32, 64), "compression": "zlib"},
    "planar": {"planarconfig": "separate", "rowsperstrip": 16, "compression": "zlib"},
    "planar tiles": {"planarconfig": "separate", "tile": (64, 48), "compression": "zlib"},
    "uncompressed planar": {"planarconfig": "separate"},
    "pages": {"rowsperstrip": 16, "compression": "zlib"},
    "uncompressed pages": {},
}


def write(path: Path, pixels: np.ndarray, form: str) -> None:
    options = {**FORMS[form]}
    with tifffile.TiffWriter(path, byteorder=options.pop("byteorder", "<")) as file:
        if form.endswith("pages"):
            for page in pixels.transpose(2, 0, 1):
                file.write(page, photometric="minisblack", metadata=None, **options)
        else:
            options.setdefault("planarconfig", "contig")
            planes = pixels.transpose(2, 0, 1) if options["planarconfig"] == "separate" else pixels
            kind = "rgb" if pixels.shape[2] == 3 else "minisblack"
            file.write(planes, photometric=kind, metadata=None, **options)


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_the_image(form: str, tmp_path: Path):
    path, pixels = tmp_path / "a.tif", image(BANDS, 117, 131)
    write(path, pixels, form)
    assert np.array_equal(read_image(path, BANDS), pixels)
    with LargeTiff(path, BANDS, CPU) as large:
        assert large.shape == (4, 117, 131)
        for top, bottom in ((0, 40), (13, 53), (77, 117), (116, 117), (0, 117), (5, 6)):
            assert np.array_equal(large.rows(top, bottom), pixels[top:bottom])
        assert np.array_equal(large.decimated(5), pixels[::5, ::5])
        window = large[:, 30:70, 100:150]
        assert window.dtype == torch.uint16 and np.array_equal(window.permute(1, 2, 0).numpy(), pixels[30:70, 100:])


def test_only_overlapping_segments_are_decoded_and_kept(tmp_path: Path):
    write(tmp_path / "a.tif", image(BANDS, 640, 70), "tiles")
    with LargeTiff(tmp_path / "a.tif", BANDS, CPU) as large:
        decode, decoded = large._page.decode, []

        def counted(data: bytes | None, index: int, **options: Any) -> Any:
            decoded.extend([index] if data is not None else [])
            return decode(data, index, **options)

        large._page.decode = counted
        for top in range(0, 601, 40):
            large.rows(top, min(top + 80, 640))
            assert len(large._decoded) <= 3 * 3
        assert sorted(decoded) == [*range(3, 30)]  # each once; the first row of tiles when it was opened


def test_pixels_without_data_and_empty_tiles(tmp_path: Path):
    channels = Channels(BANDS.names, "float32", BANDS.range, nodata=0)
    pixels = image(BANDS, 64, 64)
    tiles = iter([pixels[:32, :32], None, None, pixels[32:, 32:]])
    form = {"shape": pixels.shape, "dtype": pixels.dtype, "tile": (32, 32), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", tiles, photometric="minisblack", planarconfig="contig", **form)
    expected = read_image(tmp_path / "a.tif", channels)
    assert np.isnan(expected[:32, 32:]).all()
    with LargeTiff(tmp_path / "a.tif", channels, CPU) as large:
        assert np.array_equal(large.rows(10, 50), expected[10:50], equal_nan=True)


def test_images_that_are_not_read_by_rows_are_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    rgb = image(RGB, 20, 30)
    for pixels, options in (
        (rgb[..., 0], {"photometric": "minisblack"}),
        (rgb, {"photometric": "rgb", "extratags": [(274, "H", 1, 6, True)]}),  # a rotation
        (rgb.astype(np.uint16), {"photometric": "rgb"}),
    ):
        tifffile.imwrite(path, pixels, **options)
        with pytest.raises(UnreadableFileError, match=r"a\.tif"):
            LargeTiff(path, RGB, CPU)
    rgba = np.dstack([rgb, rgb[..., :1]])
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    with LargeTiff(path, RGB, CPU) as large:
        assert np.array_equal(large.rows(3, 20), read_image(path, RGB)[3:])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableFileError, match=r"a\.tif"):
        LargeTiff(path, RGB, CPU)


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("densevit.data.io.map_files.TILE", 32)
    monkeypatch.setattr("densevit.inference.large_image_prediction.TILE", 32)

    def run(loaded: Predictor, out: str, *options: str, large: bool = True) -> int:
        monkeypatch.setattr(large_tiff, "LARGE", 1 if large else 1 << 40)
        monkeypatch.setattr("densevit.inference.model_loading.load", lambda run, device, trust, runtime: loaded)
        return main(["predict", "RUN", "a.tif", "--device", "cpu", "--out", out, *options])

    return run


@pytest.mark.parametrize(
    ("channels", "form", "size", "options"),
    [
        (BANDS, "tiles", (117, 131), ["--window", "48", "--stride", "20"]),
        (BANDS, "pages", (90, 64), ["--window", "32x40"]),
        (BANDS, "planar", (65, 130), ["--window", "48", "--flip", "--average", "probabilities"]),
        (RGB, "strips", (101, 77), ["--window", "40", "--stride", "13x30"]),
    ],
)
def test_maps_equal_those_of_the_image_in_memory(channels, form, size, options, predict):
    """Each head has its map; depth is exact."""
    write(Path("a.tif"), image(channels, *size), form)
    model = predictor(channels, surfaces=Segmenter, depth=Depth)
    assert predict(model, "whole", *options, large=False) == predict(model, "rows", *options) == 0
    expected = Image.open("whole/surfaces/semantic/a.png")
    assert len(np.unique(expected)) == 2
    with tifffile.TiffFile("rows/surfaces/semantic/a.tif") as file:
        page = file.pages[0]
        assert (page.tile, page.compression.name, page.dtype) == ((32, 32), "ADOBE_DEFLATE", np.uint8)
        assert np.array_equal(page.asarray(), np.asarray(expected))
    assert np.array_equal(Image.open("rows/surfaces/semantic/a.tif").convert("RGB"), expected.convert("RGB"))
    assert [*Path("rows/surfaces/semantic").iterdir()] == [Path("rows/surfaces/semantic/a.tif")]
    depth = tifffile.imread("rows/depth/depth/a.tif")
    assert depth.dtype == np.float32 and np.array_equal(depth, np.load("whole/depth/depth/a.npy"))
    assert read("rows/images.json") == read("whole/images.json")
    for drawn in ("surfaces/drawn/a.jpg", "depth/drawn/a.jpg"):
        assert np.array_equal(Image.open(f"rows/{drawn}"), Image.open(f"whole/{drawn}"))


def test_visualization_of_a_large_image_is_decimated(predict, monkeypatch):
    monkeypatch.setattr("densevit.inference.large_image_prediction.MAX_SIDE", 40)
    write(Path("a.tif"), image(BANDS, 117, 131), "tiles")
    seen: list[Any] = []
    monkeypatch.setattr(
        "densevit.inference.image_writers.draw",
        lambda pixels, predictions, *rest: (
            seen.append((pixels, predictions["semantic"])) or np.zeros((4, 4, 3), np.uint8)
        ),
    )
    assert predict(predictor(BANDS, segmentation=Segmenter), "rows", "--window", "48") == 0
    [(pixels, labels)] = seen
    assert np.array_equal(pixels, image(BANDS, 117, 131)[::4, ::4])
    ids = np.array([one.file_id for one in CLASSES])[labels]
    assert np.array_equal(ids, tifffile.imread("rows/semantic/a.tif")[::4, ::4])


def test_an_interruption_leaves_no_file_and_can_be_continued(predict, monkeypatch, capsys):
    write(Path("a.tif"), image(BANDS, 117, 131), "tiles")
    model, rows = predictor(BANDS, segmentation=Segmenter), LargeTiff.rows

    def stopped(self: LargeTiff, top: int, bottom: int) -> np.ndarray:
        if top > 40:
            assert [path.name for path in Path("rows/semantic").iterdir()] == ["a.tif.partial"]
            raise KeyboardInterrupt
        return rows(self, top, bottom)

    with monkeypatch.context() as patch:
        patch.setattr(LargeTiff, "rows", stopped)
        assert predict(model, "rows", "--window", "48") == 130
    assert "--resume" in capsys.readouterr().err and not [*Path("rows/semantic").iterdir()]
    assert predict(model, "rows", "--window", "48", "--resume") == predict(model, "once", "--window", "48") == 0
    assert Path("rows/semantic/a.tif").read_bytes() == Path("once/semantic/a.tif").read_bytes()


def test_a_damaged_segment_is_reported(predict, capsys):
    write(Path("a.tif"), image(BANDS, 117, 131), "tiles")
    with tifffile.TiffFile("a.tif") as file:
        offset = file.pages[0].dataoffsets[-1]
    data = Path("a.tif").read_bytes()
    Path("a.tif").write_bytes(data[:offset] + bytes(50) + data[offset + 50 :])
    assert predict(predictor(BANDS, segmentation=Segmenter), "rows", "--window", "48") == 1
    assert "a.tif cannot be read" in capsys.readouterr().err and not [*Path("rows").rglob("*.tif*")]
    assert read("rows/images.json") == []


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        ({"segmentation": Segmenter, "detection": Boxes}, ["--window", "48", "--image-size", "source"]),
        ({"segmentation": Segmenter}, ["--window", "48", "--scales", "1,2"]),
        ({"segmentation": Segmenter}, ["--window", "48", "--image-size", "64"]),
    ],
)
def test_other_heads_and_options_read_the_whole_image(heads, options, predict, monkeypatch):
    write(Path("a.tif"), image(BANDS, 117, 131), "tiles")
    monkeypatch.setattr("densevit.inference.large_image_prediction.predict_strips", None)
    monkeypatch.setattr(Boxes, "predict", lambda self, outputs, targets: [{} for _ in targets])
    model = predictor(BANDS, **heads)
    assert predict(model, "rows", *options) == 0
    assert not [*Path("rows").rglob("*.tif")]
