"""Maps of the targets of a batch, padded to one size."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def padded_maps(
    targets: Sequence[Mapping[str, Any]], key: str, fill: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Pads the maps of a key, (h, w) each, to the largest `size` with `fill`: (B, H, W).

    Images without the key are `fill` everywhere.
    """
    H, W = (max(target["size"][axis] for target in targets) for axis in (0, 1))
    maps = torch.full((len(targets), H, W), fill, dtype=dtype, device=device)
    for padded, target in zip(maps, targets, strict=True):
        if key in target:
            h, w = target[key].shape
            padded[:h, :w] = target[key]
    return maps
