"""A model that stands in for a trained one, and videos."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from densevit.interfaces import RGB, Class

CLASSES = (Class("cat", 17, (250, 10, 20)), Class("dog", 18, (20, 30, 240)))


class StandIn:
    """Predicts a dog of the image's size with score 0.75, and a cat with 0.25."""

    def __init__(self, heads: tuple[str, ...]) -> None:
        self.model: Any = None
        self.channels = RGB
        self.classes = dict.fromkeys(heads, CLASSES)
        self.target_types: dict[str, Any] = {}
        self.score_thresholds: dict[str, float] = {}
        self.fingerprint = "0123456789abcdef"
        self.batches: list[int] = []

    @property
    def default_thresholds(self) -> dict[str, float]:
        return dict.fromkeys(self.classes, 0.5) | self.score_thresholds

    def merges_windows(self, head: str) -> bool:
        return False

    def predict(self, images: list[np.ndarray], *given: Any, **options: Any) -> list[Any]:
        self.batches.append(len(images))
        return [self.see(*image.shape[:2]) for image in images]

    def see(self, height: int, width: int) -> Any:
        boxes = torch.tensor([[1.0, 2, width, height], [0, 0, 1 / 3, 1]])
        found = {"boxes": boxes, "scores": torch.tensor([0.75, 0.25]), "labels": torch.tensor([1, 0])}
        return found if len(self.classes) == 1 else dict.fromkeys(self.classes, found)


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
