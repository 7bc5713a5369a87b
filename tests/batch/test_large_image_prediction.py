"""`densevit predict` of a TIFF that is read by rows of windows: the same maps as of the image in memory."""

from collections.abc import Callable
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
from densevit.data.io.images import read_image
from densevit.model import DenseModel
from densevit_batch import large_image_prediction, large_tiff, map_strips
from densevit_batch.large_tiff import LargeTiff
from tests.cli.stand_in import read
from tests.model.small_models import CLASSES, Depth, Segmenter, Stem

BANDS = Channels(("blue", "green", "red", "nir"), "uint16", ((0.0, 4000.0),) * 4)


class Bands(Stem):
    """A padded convolution of the channels."""

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        count = len(channels.names)
        self.mean, self.std = (0.5,) * count, (0.25,) * count
        self.layer = nn.Conv2d(count, 6, 9, 4, padding=4)


def predictor(channels: Channels, **heads: Any) -> DenseModel:
    torch.manual_seed(2)
    stem = Bands(channels)
    kinds = {name: head((6,), (4,), () if head is Depth else CLASSES) for name, head in heads.items()}
    backbone = BackboneSection(name="x", channels=channels)
    sections = ModelSections(backbone=backbone, heads={name: HeadSection(name="x") for name in heads})
    return DenseModel(stem, kinds, sections=sections).eval()


def image(channels: Channels, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256 if channels.is_rgb else 4000, (height, width, len(channels.names))).astype(
        channels.dtype
    )


FORMS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 32), "compression": "zlib", "predictor": True},
    "strips": {"rowsperstrip": 7, "compression": "lzw"},
    "planar": {"planarconfig": "separate", "rowsperstrip": 16, "compression": "zlib"},
    "pages": {},
}


def write(path: Path, pixels: np.ndarray, form: str) -> None:
    options = {**FORMS[form]}
    with tifffile.TiffWriter(path) as file:
        if form == "pages":
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
    with LargeTiff(path, BANDS, torch.device("cpu")) as large:
        assert large.shape == (4, 117, 131)
        for top, bottom in ((0, 40), (13, 53), (77, 117), (116, 117), (0, 117), (5, 6)):
            assert np.array_equal(large.rows(top, bottom), pixels[top:bottom])
        assert np.array_equal(large.decimated(5), pixels[::5, ::5])
        window = large[:, 30:70, 100:150]
        assert window.dtype == torch.uint16 and np.array_equal(window.permute(1, 2, 0).numpy(), pixels[30:70, 100:])


@pytest.fixture
def predict(cwd: Path, load_as: Callable[[DenseModel], DenseModel], monkeypatch: pytest.MonkeyPatch):
    for module in (map_strips, large_image_prediction):
        monkeypatch.setattr(module, "TILE", 32)

    def predict(model: DenseModel, out: str, *options: str, large: bool = True) -> int:
        monkeypatch.setattr(large_tiff, "LARGE", 1 if large else 1 << 40)
        load_as(model)
        return main(["predict", "RUN", "a.tif", "--device", "cpu", "--out", out, *options])

    return predict


@pytest.mark.parametrize(
    ("channels", "form", "size", "options"),
    [
        (BANDS, "tiles", (117, 131), ["--window", "48", "--stride", "20"]),
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
    depth = tifffile.imread("rows/depth/depth/a.tif")
    assert depth.dtype == np.float32 and np.array_equal(depth, np.load("whole/depth/depth/a.npy"))
    assert read("rows/images.json") == read("whole/images.json")
    for drawn in ("surfaces/drawn/a.jpg", "depth/drawn/a.jpg"):
        assert np.array_equal(Image.open(f"rows/{drawn}"), Image.open(f"whole/{drawn}"))
