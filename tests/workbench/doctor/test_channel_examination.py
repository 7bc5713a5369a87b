"""`densevit doctor` on images of other channels than RGB of 8 bits: findings, proposed keys, the same pixels."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile

import densevit
from densevit_workbench.doctor.findings import Finding
from tests.workbench.doctor.test_examination import HEIGHT, WIDTH, box, write_coco

IMAGES = 6


def fields(seed: int, count: int, low: float = 100, high: float = 4000) -> np.ndarray:
    """Smooth channels (H, W, C) float32 in low ... high."""
    coarse = np.random.default_rng(seed).uniform(0, 1, (6, 8, count)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).reshape(HEIGHT, WIDTH, count)
    return low + smooth.clip(0, 1) * (high - low)


def write_bands(root: Path, images: Sequence[np.ndarray]) -> Path:
    """COCO folder with these training images as TIFF, and a val split of two others."""
    for split, of_split in (("train", images), ("val", [fields(90 + i, 4).astype(np.uint16) for i in range(2)])):
        boxes = [box(n + 1, n, [4, 4, 20, 20 + n], n % 3 + 1) for n in range(len(of_split))]
        write_coco(root, split, boxes, len(of_split))
        for number, pixels in enumerate(of_split):
            file = (root / split / f"{number}.png").rename(root / split / f"{number}.tif")
            tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["unspecified"])
        (root / f"{split}.json").write_text((root / f"{split}.json").read_text().replace(".png", ".tif"))
    return root


def found(root: Path, *overrides: str) -> dict[str, Finding]:
    """The errors and warnings by title; each title occurs once."""
    findings = [one for one in densevit.doctor(root, overrides).findings if one.severity != "note"]
    assert len({one.title for one in findings}) == len(findings)
    return {one.title: one for one in findings}


KEYS = ("data.channels=[red, green, blue, nir]", "data.range=[0, 5000]")


def test_flaws_of_channels_are_named(tmp_path: Path):
    flawed = [fields(i, 4).astype(np.uint16) for i in range(IMAGES)]
    flawed[2][..., 3] = 7
    flawed[3][10:20, 10:20, 1] = 65535  # 3 %, not on the border
    flawed[4][:, :16, 2] = 9000  # 25 %, on the border
    root = write_bands(tmp_path / "set", flawed)
    flaws = {title: (one.count, one.of, one.examples) for title, one in found(root, *KEYS).items()}
    assert flaws == {
        "images with constant or empty channels": (1, 6, ("2.tif: nir is 7 everywhere",)),
        "images with saturated channels": (1, 6, ("3.tif: green is 65535 in 3% of pixels",)),
        "images with pixels likely without data": (1, 6, ("4.tif: blue is 9000 in 25% of pixels",)),
    }
    clipped = found(root, KEYS[0], "data.range=[0, 2000]", "data.val_split=train")[
        "images with channels outside of data.range"
    ]
    share = (flawed[0][..., 0] > 2000).mean()
    assert clipped.count == IMAGES and clipped.examples[0].startswith(f"0.tif: red in {share:.0%} of pixels, green in ")
    assert found(root)["images with other channels than RGB of 8 bits"].examples[-1] == "data.nodata: 9000"
    assert "images with pixels likely without data" not in found(root, *KEYS, "data.nodata=9000")
