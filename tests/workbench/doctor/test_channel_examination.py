"""`densevit doctor` on images of other channels than RGB of 8 bits: proposed keys, statistics and findings."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

import densevit
from densevit_workbench.doctor.findings import Finding
from tests.workbench.doctor.test_diagnose import box

HEIGHT, WIDTH, IMAGES = 48, 64, 6

Write = Callable[[Path, np.ndarray], object]


def fields(seed: int, count: int, low: float = 100, high: float = 4000) -> np.ndarray:
    """Smooth channels (H, W, C) float32 in low ... high."""
    coarse = np.random.default_rng(seed).uniform(0, 1, (6, 8, count)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).reshape(HEIGHT, WIDTH, count)
    return low + smooth.clip(0, 1) * (high - low)


def write_set(root: Path, name: str, images: Sequence[np.ndarray], write: Write) -> Path:
    """COCO folder with these training images, as {number}{name}, and a val split of two others."""
    for split, of_split in (("train", images), ("val", [fields(90 + i, images[0].shape[2]) for i in range(2)])):
        (root / split).mkdir(parents=True)
        names = [f"{number}{name}" for number in range(len(of_split))]
        for file, pixels in zip(names, of_split, strict=True):
            write(root / split / file, pixels.astype(images[0].dtype))
        listed = [{"id": n, "file_name": file, "width": WIDTH, "height": HEIGHT} for n, file in enumerate(names)]
        boxes = [box(n + 1, n, [4, 4, 20, 20 + n]) for n in range(len(names))]
        document = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


def bands(path: Path, pixels: np.ndarray) -> None:
    extra = ["unspecified"] * (pixels.shape[2] - 3)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=extra)


def ome(path: Path, pixels: np.ndarray) -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="minisblack", metadata=metadata)


def file_per_channel(path: Path, pixels: np.ndarray) -> None:
    for i, end in enumerate(("_red", "_blue", "_nir")):
        tifffile.imwrite(str(path).replace("_red", end), pixels[..., i])


@pytest.mark.parametrize(
    ("name", "write", "count", "dtype", "channels", "severity"),
    [
        (".tif", bands, 5, np.uint16, "[red, green, blue, band4, band5]", "error"),
        (".ome.tif", ome, 2, np.uint16, "[DAPI, GFP]", "error"),
        (".png", lambda path, pixels: cv2.imwrite(str(path), pixels), 3, np.uint16, "[red, green, blue]", "warning"),
        ("_red.tif", file_per_channel, 3, np.uint16, "{red: _red, blue: _blue, nir: _nir}", "warning"),
    ],
)
def test_keys_are_proposed_and_used(
    name: str, write: Write, count: int, dtype: type, channels: str, severity: str, tmp_path: Path
):
    images = [fields(i, count).astype(dtype) for i in range(IMAGES)]
    root = write_set(tmp_path / "set", name, images, write)
    diagnosis = densevit.diagnose(root)
    [proposal] = [one for one in diagnosis.findings if one.severity != "note"]
    assert (proposal.title, proposal.severity) == ("images with other channels than RGB of 8 bits", severity)
    low, high = min(image.min() for image in images), max(image.max() for image in images)
    assert proposal.examples == (
        f"{root}/train/0{name}: {count} channels of {np.dtype(dtype)}, values {low:g} to {high:g} (6 of 6 images)",
        f"data.channels: {channels}",
        "data.range: percentile",
    )
    train = diagnosis.splits["train"]
    assert train.opened == IMAGES and len(train.channels.names) == count
    assert train.channel_values is not None
    order = [2, 1, 0] if name == ".png" else [*range(count)]  # OpenCV writes BGR
    stacked = np.stack(images)[..., order].astype(np.float64)
    np.testing.assert_allclose(train.channel_values.low, stacked.min(axis=(1, 2)))
    np.testing.assert_allclose(train.channel_values.mean, stacked.mean(axis=(1, 2)))
    again = densevit.diagnose(root, [f"data.channels={channels}"])
    assert not again.errors and again.count("warning") == 0, "the proposed keys suffice"


def found(root: Path, *overrides: str) -> dict[str, Finding]:
    """The errors and warnings by title; each title occurs once."""
    findings = [one for one in densevit.diagnose(root, overrides).findings if one.severity != "note"]
    assert len({one.title for one in findings}) == len(findings)
    return {one.title: one for one in findings}


@pytest.fixture
def flawed() -> list[np.ndarray]:
    """Images of four bands, each but the first two with a flaw in one channel."""
    images = [fields(i, 4).astype(np.uint16) for i in range(IMAGES)]
    images[2][..., 3] = 7
    images[3][10:20, 10:20, 1] = 65535  # 3 %, not on the border
    images[4][:, :16, 2] = 9000  # 25 %, on the border
    return images


KEYS = ("data.channels=[red, green, blue, nir]", "data.range=[0, 5000]")


def test_flaws_of_channels_are_named(flawed: list[np.ndarray], tmp_path: Path):
    root = write_set(tmp_path / "set", ".tif", flawed, bands)
    flaws = {title: (one.count, one.of, one.examples) for title, one in found(root, *KEYS).items()}
    assert flaws == {
        "images with constant or empty channels": (1, 6, ("2.tif: nir is 7 everywhere",)),
        "images with saturated channels": (1, 6, ("3.tif: green is 65535 in 3% of pixels",)),
        "images with pixels likely without data": (1, 6, ("4.tif: blue is 9000 in 25% of pixels",)),
    }
    clipped = found(root, KEYS[0], "data.range=[0, 2000]", "data.split=train")[
        "images with channels outside of data.range"
    ]
    share = (flawed[0][..., 0] > 2000).mean()
    assert clipped.count == IMAGES and clipped.examples[0].startswith(f"0.tif: red in {share:.0%} of pixels, green in ")
    proposal = found(root)["images with other channels than RGB of 8 bits"]
    assert proposal.examples[-1] == "data.nodata: 9000"
    assert "images with pixels likely without data" not in found(root, *KEYS, "data.nodata=9000")
