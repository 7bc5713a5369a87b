"""Made-up targets, for heads that are tried without a data set."""

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
    """Targets of one image: `image_id`, `size`, `original_size`, and those of `needs` that have a meaning in densevit.

    size: (h, w) in pixels, at least 8 each. objects: how many; with 0, `boxes` has the shape (0, 4) and so on, and maps
    hold nothing that is known: `semantic` is 255 and `depth` 0 all over. Boxes are at least 4 pixels wide and high.
    """
    h, w = size
    corners = (
        torch.rand(objects, 2, 2, generator=generator).sort(dim=1).values
    )  # (N, 2, 2): low and high corner, x and y
    room = torch.tensor([w - 4.0, h - 4.0])
    boxes = torch.cat([corners[:, 0] * room, corners[:, 1] * room + 4], dim=1)  # (N, 4)
    labels = torch.randint(max(num_classes, 1), (objects,), generator=generator)
    made = {"boxes": boxes, "labels": labels, "masks": _filled(boxes, size)}
    if objects:
        made["semantic"] = torch.randint(max(num_classes, 1), size, generator=generator).to(torch.uint8)
        made["semantic"][: h // 4] = IGNORE
        made["depth"] = 0.5 + 9.5 * torch.rand(size, generator=generator)
        made["depth"][:, : w // 4] = 0
    else:
        made["semantic"] = torch.full(size, IGNORE, dtype=torch.uint8)
        made["depth"] = torch.zeros(size)
    targets: Targets = {"image_id": image_id, "size": size, "original_size": original_size or size}
    return targets | {key: made[key] for key in KNOWN if key in needs}


def _filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool: each object fills the pixels whose centre is in its box."""
    rows, columns = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    x0, y0, x1, y1 = boxes.unbind(1)
    high = (rows >= y0[:, None]) & (rows < y1[:, None])  # (N, H)
    wide = (columns >= x0[:, None]) & (columns < x1[:, None])  # (N, W)
    return high[:, :, None] & wide[:, None, :]
