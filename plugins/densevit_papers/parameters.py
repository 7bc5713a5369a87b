"""Parameters of backbones: groups by depth."""

from collections.abc import Iterable

from torch import nn


def stage_depths(
    stages: Iterable[tuple[list[nn.Parameter], Iterable[nn.Module], list[nn.Parameter]]],
) -> list[list[nn.Parameter]]:
    """Groups of a backbone of several stages: the first embedding, and each block, with the embedding before and the
    norm after it.

    stages: the parameters of the embedding, the blocks, and the parameters of the norm of each stage.
    """
    depths: list[list[nn.Parameter]] = []
    for embedding, stage, norm in stages:
        first, *blocks = (list(block.parameters()) for block in stage)
        depths += [embedding + first, *blocks] if depths else [embedding, first, *blocks]
        depths[-1] = depths[-1] + norm
    return depths
