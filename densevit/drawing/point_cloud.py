"""Coloured point clouds from depth maps, written as PLY (MeshLab, CloudCompare, Blender, Open3D)."""

from pathlib import Path

import numpy as np

from densevit.errors import DensevitError

_VERTEX = np.dtype([("position", "<f4", 3), ("color", "u1", 3)])  # packed: 15 bytes
_PROPERTIES = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")


def points(
    depth: np.ndarray, focal: float | tuple[float, float], centre: tuple[float, float] | None = None
) -> np.ndarray:
    """Back-projects each pixel with a pinhole camera without distortion: x right, y down, z forward, in metres.

    depth: (H, W), along the optical axis. focal: focal length in pixels, for both axes or (fx, fy). centre: principal
    point (cx, cy) in pixels, where the centre of the first pixel is 0, as in calibrations; by default the centre of
    the image. Returns (H, W, 3) float64.
    """
    height, width = depth.shape
    fx, fy = focal if isinstance(focal, tuple) else (focal, focal)
    if not (fx > 0 and fy > 0):
        raise DensevitError(f"focal: {focal} was given; a focal length in pixels above 0 is expected.")
    cx, cy = ((width - 1) / 2, (height - 1) / 2) if centre is None else centre
    z = depth.astype(np.float64)
    x, y = np.meshgrid((np.arange(width) - cx) / fx, (np.arange(height) - cy) / fy)
    return np.stack([x * z, y * z, z], axis=2)


def write_ply(
    path: Path,
    depth: np.ndarray,
    image: np.ndarray,
    focal: float | tuple[float, float],
    centre: tuple[float, float] | None = None,
) -> int:
    """Writes a binary PLY with one coloured point per pixel, row by row. Returns the number of points.

    depth: (H, W) in metres; unknown pixels (0, negative or not finite) are skipped. image: (H, W, 3) uint8, RGB. focal,
    centre: the arguments of `points`.
    """
    if image.shape != (*depth.shape, 3) or image.dtype != np.uint8:
        raise DensevitError(
            f"{path} is not written: the depth is {' x '.join(map(str, depth.shape))} and the image "
            f"{' x '.join(map(str, image.shape))} {image.dtype}; H x W and H x W x 3 uint8 are expected."
        )
    valid = np.isfinite(depth) & (depth > 0)
    vertices = np.empty(np.count_nonzero(valid), _VERTEX)
    vertices["position"] = points(np.where(valid, depth, 0), focal, centre)[valid]
    vertices["color"] = image[valid]
    lines = ["ply", "format binary_little_endian 1.0", "comment x right, y down, z forward, in metres"]
    lines += [f"element vertex {len(vertices)}", *(f"property {what}" for what in _PROPERTIES), "end_header"]
    with path.open("wb") as file:
        file.write("\n".join([*lines, ""]).encode("ascii"))
        file.write(vertices.tobytes())
    return len(vertices)
