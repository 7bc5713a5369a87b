"""Surface normals of a rendered scene, from its depth."""

import numpy as np

from densevit_scenes.scene import Camera
from densevit_scenes.surfaces import View

_LARGEST_BEND = 0.005  # second difference of the inverse depth, relative to it, at which a surface ends; 0 on planes


def surface_normals(camera: Camera, depth: np.ndarray) -> np.ndarray:
    """Returns unit vectors (3, H, W) float32 in the camera's frame (right, down, forward) that point to the camera; 0
    where the depth is unknown and at the edges of surfaces. depth: (H, W) in metres, 0 = unknown."""
    view = View(camera, *depth.shape)
    points = depth * np.stack([*np.broadcast_arrays(view.columns, view.rows[:, None]), np.ones_like(depth)])
    across, down = (np.gradient(points, axis=axis) for axis in (2, 1))
    normals = np.cross(down, across, axis=0)
    length = np.linalg.norm(normals, axis=0)
    is_known, inverse = (depth > 0) & (length > 0), 1 / np.maximum(depth, 1e-6)
    for axis in (0, 1):
        bend = np.roll(inverse, 1, axis) + np.roll(inverse, -1, axis) - 2 * inverse
        is_known &= np.abs(bend) < _LARGEST_BEND * inverse
    is_known[[0, -1]] = is_known[:, [0, -1]] = False
    return np.where(is_known, normals / np.maximum(length, 1e-20), 0).astype(np.float32)
