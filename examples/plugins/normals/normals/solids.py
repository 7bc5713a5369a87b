"""Rendered solids with exact surface normals."""

import numpy as np
import torch

import densevit
from densevit.interfaces import Sample

LIGHTS = np.array([[0, -0.6, -0.8], [0, 0.6, -0.8], [0, 0, -1]])  # from above, from below, from the camera
STREAMS = {"train": 0, "val": 1}


class Solids(densevit.Dataset):
    """A sphere before a tilted plane, lit in red from above, green from below and blue from the camera.

    Unit normals in the camera's frame, x to the right, y down, z away from the camera; 0 (unknown) in the sky above.
    """

    provides = ("normals",)

    def __init__(self, split: str, side: int = 64, length: int = 64, val_length: int = 8) -> None:
        self.classes = {"normals": ()}
        self.stream, self.side, self.length = STREAMS[split], side, val_length if split == "val" else length

    def __len__(self) -> int:
        return self.length

    def sizes(self) -> np.ndarray:
        return np.full((self.length, 2), self.side)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.stream, index])
        side, slope, radius = self.side, rng.uniform(-1.2, 1.2), self.side * rng.uniform(0.15, 0.3)
        y, x = np.mgrid[:side, :side] + 0.5
        normals = np.zeros((3, side, side), np.float32)
        normals[:, y > side / 8] = np.array([0, -np.sin(slope), -np.cos(slope)], np.float32)[:, None]
        cx, cy = rng.uniform(0.3 * side, 0.7 * side, 2)
        nx, ny = (x - cx) / radius, (y - cy) / radius
        on_sphere = nx**2 + ny**2 < 1
        nz = -np.sqrt(np.where(on_sphere, 1 - nx**2 - ny**2, 0))
        normals[:, on_sphere] = np.stack([nx, ny, nz])[:, on_sphere]
        shades = np.einsum("lc,chw->lhw", LIGHTS, normals).clip(0, 1)
        image = np.rint(20 + 230 * shades).astype(np.uint8)
        targets = {"image_id": index + 1, "normals": torch.from_numpy(normals)}
        return {"image": torch.from_numpy(image), "targets": targets}
