"""Position embeddings of special tokens: published ViTs store them in the table; here they are added to the tokens."""

import math

import torch

from densevit.interfaces import Change, Rearrangement, StateDict

TOKENS = Change(lambda tokens: tokens[0], lambda tokens: tokens[None])
"""(1, P, C) <-> (P, C)."""
GRID = Change(
    lambda table: table[0].unflatten(0, (math.isqrt(table.shape[1]), -1)), lambda table: table.flatten(0, 1)[None]
)
"""(1, H * W, C) <-> (H, W, C) of a square grid."""


def added_to_tokens(
    table: str, tokens: tuple[str, ...], unplaced: tuple[str, ...] = (), rows: bool = True
) -> Rearrangement:
    """Adds the position embeddings of tokens, the first rows of a table (1, P + H * W, C), to the tokens (1, 1, C).

    table: the key of the position table. tokens: the keys of the tokens, in the order of the table's rows. The table
    may lack these rows, and the checkpoint may lack tokens. The inverse writes the sum as the token and a row of zeros.
    It writes no row if `rows` is false or the checkpoint has one of the tokens `unplaced`.
    """

    def into(state: StateDict) -> StateDict:
        if table not in state:
            return state
        positions = state[table]
        present = [token for token in tokens if token in state]
        if positions.shape[1] - math.isqrt(positions.shape[1]) ** 2 != len(present):
            return state
        summed = {token: state[token] + positions[:, i : i + 1] for i, token in enumerate(present)}
        return {**state, **summed, table: positions[:, len(present) :]}

    def back(state: StateDict) -> StateDict:
        present = [token for token in tokens if token in state]
        if table not in state or not present or not rows or any(token in state for token in unplaced):
            return state
        cells = state[table]
        return {**state, table: torch.cat([cells.new_zeros(1, len(present), cells.shape[2]), cells], 1)}

    return Rearrangement(into, back)
