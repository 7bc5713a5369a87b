"""Infers the window sizes of a Swin V2, current and pretrained, which its weights do not determine.

Each function returns `backbone.window_size` and `backbone.pretrained_window_sizes`, or {} if it cannot infer them.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from densevit.interfaces import StateDict
from densevit_backbones.swin.inferred_options import same

UNSAVED = ("backbone.window_size", "backbone.pretrained_window_sizes")


def windows_from_tables(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Infers the windows from saved tables of relative coordinates, if there are any, or else from the metadata."""
    offsets: dict[int, Tensor] = {}
    for key, table in state.items():
        if key.endswith("relative_coords_table"):
            stage = re.search(r"\d+", key)
            offsets.setdefault(int(stage[0]) if stage else 0, table)
    tables = [offsets[stage] for stage in sorted(offsets)]  # (1, 2M - 1, 2M - 1, 2)
    if len(tables) != 4:
        return windows_from_config(state, metadata)
    windows = tuple((table.shape[1] + 1) // 2 for table in tables)
    if any(table.is_meta for table in tables):
        return {"backbone.window_size": same(windows)}
    # Liu et al. 2022, equation 4: the last entry is log2(8 (M - 1) / (P - 1) + 1) / log2(8).
    ratios = [math.expm1(float(table.max()) * math.log(8)) / 8 for table in tables]
    return _options(windows, tuple(1 + round((m - 1) / ratio) for m, ratio in zip(windows, ratios, strict=True)))


def windows_from_config(state: StateDict, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Infers the windows from the config.json of transformers, or from the name of a timm architecture."""
    config = metadata.get("config", {})
    if config.get("model_type") != "swinv2":
        return windows_from_architecture(str(config.get("architecture")))
    window, side = config.get("window_size", 7), config.get("image_size", 224)
    if not isinstance(window, int) or not isinstance(side, int):
        return {}
    before = tuple(config.get("pretrained_window_sizes") or ())
    return _options(_stage_windows(window, side), before if len(before) == 4 and all(before) else None)


def windows_from_architecture(name: str) -> dict[str, Any]:
    """Infers the windows from timm's name: `swinv2_base_window12to16_192to256` has windows of 16 for images of 256
    pixels, pretrained with 12 for 192."""
    match = re.fullmatch(r"swinv2_\w+?_window(?:(\d+)to)?(\d+)_(?:(\d+)to)?(\d+)", name)
    if match is None:
        return {}
    before, window, before_side, side = (int(number) if number else 0 for number in match.groups())
    return _options(
        _stage_windows(window, side), _stage_windows(before, before_side) if before and before_side else None
    )


def _options(windows: tuple[int, ...], before: tuple[int, ...] | None) -> dict[str, Any]:
    return dict(zip(UNSAVED, (same(windows), None if before == windows else before), strict=True))


def _stage_windows(window: int, side: int) -> tuple[int, ...]:
    """The windows of Swin's four stages: at most the size of the stage's feature map for an image of this side."""
    return tuple(min(window, side // (4 * 2**stage)) for stage in range(4))
