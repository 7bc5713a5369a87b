"""A split in COCO's format, written below a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.written_files import save_image, write_text


def write_split(
    root: Path,
    split: str,
    images: Sequence[np.ndarray],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]] = ({"id": 1, "name": "leaf"},),
) -> dict[str, Any]:
    """Writes SPLIT.json and SPLIT/0.png, SPLIT/1.png, ..., and returns the json.

    images: pixels (H, W, 3) of the ids 0, 1, ... annotations: numbered by their position where they have no id.
    """
    listed = []
    for i, pixels in enumerate(images):
        save_image(root / split / f"{i}.png", pixels)
        listed.append({"id": i, "file_name": f"{i}.png", "width": pixels.shape[1], "height": pixels.shape[0]})
    numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations)]
    document = {"images": listed, "annotations": numbered, "categories": [*categories]}
    write_text(root / f"{split}.json", json.dumps(document))
    return document


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
