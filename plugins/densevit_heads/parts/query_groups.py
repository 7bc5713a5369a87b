"""Weights of another number of groups of queries (Group DETR, Chen et al. 2023)."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from densevit.set_prediction.queries import NOISE


def regrouped(
    state: Mapping[str, Tensor], num_groups: int, tables: Collection[str] = ()
) -> tuple[dict[str, Tensor], str] | None:
    """A state dict for another number of groups of queries, and a warning how it was changed; None if it has this
    number of groups, or none.

    The first groups stay, further ones are copies of them with the noise of `resized_queries`. state: the tensors of a
    module with the groups `groups.0`, `groups.1`, ... tables: keys of tables (G * Q, ...), one group after another.
    """
    numbers = {int(key.split(".")[1]) for key in state if key.startswith("groups.")}
    G = len(numbers)
    if G in (0, num_groups) or numbers != {*range(G)} or any(len(state[key]) % G for key in tables if key in state):
        return None
    generator = torch.Generator().manual_seed(torch.initial_seed())

    def copied(tensor: Tensor, group: int) -> Tensor:
        if group < G:
            return tensor
        noise = torch.randn(tensor.shape, generator=generator)
        return (tensor.float() + NOISE * tensor.float().std(correction=0) * noise).to(tensor.dtype)

    changed = {key: value for key, value in state.items() if not key.startswith("groups.")}
    for key, value in state.items():
        if key in tables:
            rows = value.unflatten(0, (G, -1))
            changed[key] = torch.cat([copied(rows[group % G], group) for group in range(num_groups)])
        for group in range(num_groups) if key.startswith("groups.0.") else ():
            name = key.removeprefix("groups.0.")
            changed[f"groups.{group}.{name}"] = copied(state[f"groups.{group % G}.{name}"], group)
    how = f"the first {num_groups}" if num_groups < G else f"these stay, {num_groups - G} are copies with noise"
    return changed, f"Warning: {num_groups} groups of queries for {G}: {how}"
