"""Folders of images and depth maps with one error each, and invalid options of that data set."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.robustness.conftest import SIZES

TINY = """
backbone: {name: swin, variant: nano, window_size: 4}
heads: {depth: {name: dpt, width: 16}}
data: {name: depth, root: ., image_size: 64, batch_size: 2, num_workers: 0}
trainer: {max_steps: 1, accelerator: cpu, precision: "32"}
"""
MAP = "labels/train/0"


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def depth(value: float = 2.0, size: tuple[int, ...] = SIZES[0], kind: type = np.float32) -> np.ndarray:
    return np.full(size, value, kind)


@pytest.fixture(autouse=True)
def _labels(folder: Path) -> None:
    """Depth in metres."""
    for split in ("train", "val"):
        for i, size in enumerate(SIZES):
            values = np.random.default_rng(i).uniform(1, 5, size).astype(np.float32)
            np.save(folder / f"labels/{split}/{i}.npy", values)
    (folder / "tiny.yaml").write_text(TINY)


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


WRONG: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "pickled objects": (".npy", npy(np.array([[{}]], dtype=object)), (f"{MAP}.npy",)),
    "another size": (".npy", npy(depth(size=(20, 28))), ("images/train/0.png", "56 x 40", "28 x 20")),
    "a PNG of 8 bits": (".png", png(depth(2, kind=np.uint8)), ("data.scale is missing", f"{MAP}.png")),
    "a PNG that is cut": (".png", png(depth(2000, kind=np.uint16))[:60], (f"{MAP}.png",)),
}
OPTIONS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "range that misses": (["data.depth_range=[50,60]"], ("data.depth_range", "train")),
    "a limit that leaves nothing": (["data.unknown.above=0.01"], ("no pixel has a known depth", "'train'")),
    "labels elsewhere": (
        ["data.labels=nowhere/{split}"],
        ("no folder nowhere/train", "Name the labels with data.labels"),
    ),
    "labels of a split": (["data.labels={train: labels/train}"], ("data.labels has no split 'val', only train",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_depth_map_is_refused(case, folder, refused):
    suffix, data, says = WRONG[case]
    (folder / f"{MAP}.npy").unlink()
    (folder / f"{MAP}{suffix}").write_bytes(data)
    refused("train", "tiny.yaml", says=says)


@pytest.mark.parametrize(
    ("split", "value", "says"),
    [("val", 2000.0, ("data.scale", "0.001", "val")), ("train", 0.0, ("depth above 0", "train"))],
    ids=["millimetres", "nothing known"],
)
def test_implausible_depth_is_refused(split, value, says, folder, refused):
    for i, size in enumerate(SIZES):
        np.save(folder / f"labels/{split}/{i}.npy", depth(value, size))
    refused("train", "tiny.yaml", says=says)


@pytest.mark.parametrize("case", OPTIONS)
def test_invalid_option_is_refused(case, folder, refused):
    options, says = OPTIONS[case]
    refused("train", "tiny.yaml", *options, says=says)
