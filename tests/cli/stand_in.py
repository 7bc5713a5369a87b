"""A model that stands in for a trained one, and videos."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from densevit.interfaces import Class
from densevit.model import DenseModel
from tests.model.small_models import Averaged
from tests.small_models import StandIn as Head

CLASSES = (Class("cat", 17, (250, 10, 20)), Class("dog", 18, (20, 30, 240)))


def dog_and_cat(height: int, width: int) -> Any:
    """A dog of the image's size with score 0.75, and a cat with 0.25."""
    boxes = torch.tensor([[1.0, 2, width, height], [0, 0, 1 / 3, 1]])
    return {"boxes": boxes, "scores": torch.tensor([0.75, 0.25]), "labels": torch.tensor([1, 0])}


class StandIn(DenseModel):
    """Each head predicts `see(height, width)` of an image of this size. batches: the sizes of batches so far."""

    def __init__(self, heads: tuple[str, ...], see: Callable[[int, int], Any] = dog_and_cat) -> None:
        self.batches: list[int] = []
        predicted = lambda target: see(*map(int, target["original_size"]))  # noqa: E731
        super().__init__(Averaged(), {head: Head(CLASSES, predicted) for head in heads})
        self.heads[heads[0]].register_forward_hook(lambda _, given, __: self.batches.append(len(given[1])))


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float = 10) -> Path:
    """Writes frames (H, W, 3) BGR with the codec of the path's suffix."""
    every = [*frames]
    code = {".mp4": "mp4v", ".webm": "VP80", ".mpg": "MPG1"}.get(path.suffix, "MJPG")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, every[0].shape[1::-1])
    assert writer.isOpened()
    for frame in every:
        writer.write(frame)
    writer.release()
    return path
