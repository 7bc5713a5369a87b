"""Surface normals of a rendered scene, from its depth."""

import numpy as np

from densevit_scenes.scene import Camera
from densevit_scenes.surfaces import View

_LARGEST_STEP = 0.02  # second difference of the depth, relative to it, at which a surface ends


def surface_normals(camera: Camera, depth: np.ndarray) -> np.ndarray:
    """Returns unit vectors (3, H, W) float32 in the camera's frame (right, down, forward) that point to the camera; 0
    where the depth is unknown and at the edges of surfaces. depth: (H, W) in metres, 0 = unknown."""
    view = View(camera, *depth.shape)
    points = depth * np.stack([*np.broadcast_arrays(view.columns, view.rows[:, None]), np.ones_like(depth)])
    across, down = (np.gradient(points, axis=axis) for axis in (2, 1))
    normals = np.cross(down, across, axis=0)
    length = np.linalg.norm(normals, axis=0)
    is_known = (depth > 0) & (length > 0)
    for axis in (0, 1):
        before, after = np.roll(depth, 1, axis), np.roll(depth, -1, axis)
        is_known &= (before > 0) & (after > 0) & (np.abs(before + after - 2 * depth) < _LARGEST_STEP * depth)
    is_known[[0, -1]] = is_known[:, [0, -1]] = False
    return np.where(is_known, normals / np.maximum(length, 1e-20), 0).astype(np.float32)
