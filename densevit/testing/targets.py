"""Random targets, to run a head without a data set."""

from collections.abc import Collection

import torch
from torch import Tensor

from densevit.interfaces import IGNORE, Targets

KNOWN = ("boxes", "labels", "masks", "semantic", "depth")


def random_targets(
    needs: Collection[str],
    size: tuple[int, int],
    num_classes: int,
    generator: torch.Generator,
    objects: int = 3,
    image_id: int = 0,
    original_size: tuple[int, int] | None = None,
) -> Targets:
    """Random targets of one image: `image_id`, `size`, `original_size`, and those keys of `needs` that densevit knows.

    size: (h, w) in pixels, at least 8 each. objects: their number; with 0, `boxes` has the shape (0, 4), and all pixels
    are unknown: `semantic` is 255 and `depth` is 0. Boxes are at least 4 pixels wide and high.
    """
    h, w = size
    corners = torch.rand(objects, 2, 2, generator=generator).sort(dim=1).values  # (N, (low, high), (x, y))
    room = torch.tensor([w - 4.0, h - 4.0])
    boxes = torch.cat([corners[:, 0] * room, corners[:, 1] * room + 4], dim=1)  # (N, 4)
    labels = torch.randint(max(num_classes, 1), (objects,), generator=generator)
    semantic, depth = torch.full(size, IGNORE, dtype=torch.uint8), torch.zeros(size)
    if objects:
        semantic[h // 4 :] = torch.randint(max(num_classes, 1), size, generator=generator)[h // 4 :]
        depth[:, w // 4 :] = 0.5 + 9.5 * torch.rand(size, generator=generator)[:, w // 4 :]
    known = {"boxes": boxes, "labels": labels, "masks": _filled(boxes, size), "semantic": semantic, "depth": depth}
    targets: Targets = {"image_id": image_id, "size": size, "original_size": original_size or size}
    return targets | {key: known[key] for key in KNOWN if key in needs}


def _filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool masks: the pixels whose centres are in the box."""
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    x0, y0, x1, y1 = boxes.T[:, :, None, None]  # (N, 1, 1) each
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
