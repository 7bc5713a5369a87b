"""Texts and images that tests write, in folders that are created."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def write_texts(root: Path, texts: Mapping[str, str]) -> Path:
    """Writes texts by their paths below a folder, which is returned."""
    for name, text in texts.items():
        write_text(root / name, text)
    return root


def save_image(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    """Writes an image in the format of the path's suffix. options: of Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """The bytes of an image's file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()
