"""Rendered stick figures with exact keypoints."""

import cv2
import numpy as np
import torch

import densevit
from densevit.interfaces import Class, Sample
from poses.types import FIGURE

LINES = (("head", "hip"), ("chest", "left_hand"), ("chest", "right_hand"), ("hip", "left_foot"), ("hip", "right_foot"))
COLORS = {"head": (250, 250, 60), "hand": (60, 250, 60), "foot": (60, 60, 250)}
STREAMS = {"train": 0, "val": 1}


class Figures(densevit.Dataset):
    """Up to two stick figures, seen from the front, that raise their left hand; every fourth image also has a crowd.

    The background is darker on the left. Keypoints have discs in the colours of `COLORS`. Those outside of the image
    are not labelled, and a grey disc hides some feet.
    """

    def __init__(self, split: str, side: int = 96, length: int = 64, val_length: int = 8) -> None:
        self.provides = {"boxes": None, "labels": None, "keypoints": FIGURE, "tilt": None}  # None: as registered
        self.classes = {"keypoints": (Class("figure", 7, (240, 90, 30)),)}
        self.stream, self.side, self.length = STREAMS[split], side, val_length if split == "val" else length

    def __len__(self) -> int:
        return self.length

    def sizes(self) -> np.ndarray:
        return np.full((self.length, 2), self.side)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.stream, index])
        side, figures, crowd = self.side, int(rng.integers(3)), index % 4 == 3
        image = np.tile(np.linspace(30, 110, side).astype(np.uint8)[None, :, None], (side, 1, 3))
        boxes, keypoints, tilts = [], [], []
        for n in range(figures):
            centre = side * np.array([(n + 0.5) / figures + rng.uniform(-0.05, 0.05), rng.uniform(0.15, 0.8)])
            tilt = rng.uniform(-0.4, 0.4)
            joints = pose(centre, side * rng.uniform(0.35, 0.45), tilt, rng)
            hidden = rng.choice(["left_foot", "right_foot"]) if rng.random() < 0.3 else None
            draw(image, joints, hidden)
            points = np.array([(*joints[name], 1 if name == hidden else 2) for name in FIGURE.names])
            low, high = points[:, :2].min(0) - 2, points[:, :2].max(0) + 2
            outside = ((points[:, :2] < 0) | (points[:, :2] > side)).any(1)
            points[outside] = 0
            boxes.append(np.concatenate([low, high]).clip(0, side))
            keypoints.append(points)
            tilts.append(tilt)
        if crowd:
            for x in np.linspace(8, side - 8, 6):
                draw(image, pose(np.array([x, side - 8]), 10, 0, rng), None)
            boxes.append(np.array([0, side - 14, side, side]))
            keypoints.append(np.zeros((len(FIGURE.names), 3)))
            tilts.append(0)
        box = torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32)
        targets = {
            "image_id": index + 1,
            "boxes": box,
            "labels": torch.zeros(len(boxes), dtype=torch.int64),
            "keypoints": torch.tensor(np.array(keypoints).reshape(-1, len(FIGURE.names), 3), dtype=torch.float32),
            "tilt": torch.tensor(tilts, dtype=torch.float32),
            "area": (box[:, 2:] - box[:, :2]).prod(1),
            "iscrowd": torch.tensor([False] * figures + [True] * crowd),
        }
        return {"image": torch.from_numpy(image).permute(2, 0, 1).contiguous(), "targets": targets}


def pose(centre: np.ndarray, height: float, tilt: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The joints of a figure, (x, y) in pixels. tilt: the angle in radians, clockwise."""
    upright = {
        "head": (0, -0.5),
        "left_hand": (rng.uniform(0.25, 0.4), rng.uniform(-0.5, -0.35)),  # seen from the front, left is on the right
        "right_hand": (rng.uniform(-0.4, -0.25), rng.uniform(0.05, 0.2)),
        "left_foot": (0.2, 0.5),
        "right_foot": (-0.2, 0.5),
        "chest": (0, -0.2),
        "hip": (0, 0.1),
    }
    rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    return {name: centre + height * rotation @ point for name, point in upright.items()}


def draw(image: np.ndarray, joints: dict[str, np.ndarray], hidden: str | None) -> None:
    """Draws a figure; a grey disc covers the hidden joint."""
    pixels = {name: [round(16 * (value - 0.5)) for value in point.tolist()] for name, point in joints.items()}
    for a, b in LINES:
        cv2.line(image, pixels[a], pixels[b], (220, 220, 220), 2, cv2.LINE_AA, shift=4)
    for name in FIGURE.names:
        color = COLORS[name.rpartition("_")[2]]
        cv2.circle(image, pixels[name], 16 * (4 if name == hidden else 2), color, -1, cv2.LINE_AA, shift=4)
    if hidden is not None:
        cv2.circle(image, pixels[hidden], 16 * 5, (140, 140, 140), -1, cv2.LINE_AA, shift=4)
