"""Files of data sets: images, label maps and depth maps, written below the test's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture
def write_image(tmp_path: Path) -> Write:
    """`write_image(path, size=(width, height))` writes an image. Beside a split train is val, so that it stays whole."""

    def write_image(path: str, size: tuple[int, int] = (4, 3), **how: Any) -> Path:
        file = tmp_path / path
        for folder in {path, path.replace("train", "val")}:
            (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 10, 10)).save(file, **how)
        return file

    return write_image


@pytest.fixture
def depth(tmp_path: Path) -> Write:
    """`depth(path, values)` writes a depth file: PNG, NPY, EXR or PFM, according to its suffix."""

    def depth(path: str, values: Any) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(values)
        if file.suffix == ".npy":
            np.save(file, values)
        elif file.suffix == ".exr":
            header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
            OpenEXR.File(header, {"Z": np.ascontiguousarray(values)}).write(str(file))
        elif file.suffix == ".pfm":
            head = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1\n"
            file.write_bytes(head.encode() + values[::-1].astype("<f4").tobytes())
        else:
            Image.fromarray(values).save(file)
        return file

    return depth


@pytest.fixture
def depth_pair(write_image: Write, depth: Write) -> Write:
    """`depth_pair(values, suffix)` writes one image and its depth map in images/train and labels/train."""

    def depth_pair(values: Any, suffix: str = ".png") -> Path:
        height, width = np.asarray(values).shape[:2]
        write_image("images/train/a.jpg", (width, height))
        return depth(f"labels/train/a{suffix}", values)

    return depth_pair


@pytest.fixture
def label(tmp_path: Path) -> Write:
    """`label(path, values)` writes a grey (H, W) or RGB (H, W, 3) label. A split train is not divided."""

    def label(path: str, values: np.ndarray) -> Path:
        file = tmp_path / path
        for folder in {path, path.replace("train", "val")}:
            (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(file)
        return file

    return label
