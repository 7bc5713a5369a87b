"""Depth as a cloud of coloured points, in PLY: what MeshLab, CloudCompare, Blender and Open3D open."""

from pathlib import Path

import numpy as np

from densevit.errors import DensevitError

_VERTEX = np.dtype([("place", "<f4", 3), ("color", "u1", 3)])  # packed: 15 bytes
_PROPERTIES = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")


def points(
    depth: np.ndarray, focal: float | tuple[float, float], centre: tuple[float, float] | None = None
) -> np.ndarray:
    """Where each pixel is, as a pinhole camera without distortion sees it: x right, y down and z forward, in metres.

    depth: (H, W), along the optical axis. focal: in pixels, one for both axes or (fx, fy). centre: (cx, cy), where the
    optical axis meets the picture, in pixels of which the first one's centre is 0, as calibrations have it; the
    picture's middle by default. Returns (H, W, 3) float64.
    """
    height, width = depth.shape
    fx, fy = focal if isinstance(focal, tuple) else (focal, focal)
    if not (fx > 0 and fy > 0):
        raise DensevitError(f"The focal length is {focal} pixels; a number above 0 is expected.")
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
    """Writes a binary PLY with a coloured point a pixel, row by row, and returns how many.

    depth: (H, W) in metres; pixels where it is 0, negative or not finite, which is unknown, are left out. image:
    (H, W, 3) uint8, RGB. focal, centre: as in `points`, whose axes the file has.
    """
    if image.shape != (*depth.shape, 3) or image.dtype != np.uint8:
        raise DensevitError(
            f"{path}: depth is {' x '.join(map(str, depth.shape))} and the picture {' x '.join(map(str, image.shape))} "
            f"{image.dtype}; H x W and H x W x 3 uint8 are expected."
        )
    known = np.isfinite(depth) & (depth > 0)
    vertices = np.empty(np.count_nonzero(known), _VERTEX)
    vertices["place"] = points(np.where(known, depth, 0), focal, centre)[known]
    vertices["color"] = image[known]
    lines = ["ply", "format binary_little_endian 1.0", "comment x right, y down, z forward, in metres"]
    lines += [f"element vertex {len(vertices)}", *(f"property {what}" for what in _PROPERTIES), "end_header"]
    with path.open("wb") as file:
        file.write("\n".join([*lines, ""]).encode("ascii"))
        file.write(vertices.tobytes())
    return len(vertices)
