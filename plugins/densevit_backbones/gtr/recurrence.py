"""Gated linear attention (Yang et al. 2024, section 4), token by token and by chunks.

The state of a head decays per key channel and takes up the product of the token's key and value:
S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T, o_t = q_t S_t / sqrt(D).

Arguments of both forms: query, key and log_decay (B, heads, N, D), log_decay at most 0; value (B, heads, N, V).
Both return (B, heads, N, V).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 64  # a power of 2


def recurrent(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Gated linear attention token by token: the reference, which holds one state per head."""
    state = torch.zeros_like(key[..., 0, :, None] * value[..., 0, None, :])  # (B, heads, D, V)
    outputs = []
    for q, k, v, g in zip(*(x.unbind(-2) for x in (query, key, value, log_decay)), strict=True):
        state = state * g.exp()[..., None] + k[..., None] * v[..., None, :]
        outputs.append((q[..., None, :] @ state).squeeze(-2))
    return torch.stack(outputs, dim=-2) * query.shape[-1] ** -0.5


def chunked(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Gated linear attention as matrix products within and between chunks of tokens.

    All decays are products of factors of at most 1, so that gates of any strength neither overflow nor cancel.
    """
    tokens = query.shape[-2]
    chunks = (tokens + _CHUNK - 1) // _CHUNK
    padding = (0, 0, 0, chunks * _CHUNK - tokens)  # zero keys have no effect
    query, key, value, log_decay = (
        F.pad(x, padding).unflatten(-2, (chunks, _CHUNK)) for x in (query, key, value, log_decay)
    )  # (B, heads, n, c, D or V)
    scores, query, key = _within_chunks(query * query.shape[-1] ** -0.5, key, log_decay.exp())
    states = _states_before(key.mT @ value, log_decay.sum(-2))
    return (scores @ value + query @ states).flatten(-3, -2)[..., :tokens, :]


def _within_chunks(query: Tensor, key: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the scores of tokens of each chunk, (B, heads, n, c, c), queries times the decay since the start of the
    chunk and keys times the decay up to its end.

    query, key, decay: (B, heads, n, c, D). Neighbouring blocks of 1, 2, 4, ... tokens merge into one. A query of the
    second block meets a key of the first one at the border of the two.
    """
    scores = (query * key).sum(-1)[..., None, None]  # (B, heads, n, blocks, s, s)
    query, key = (query * decay).unsqueeze(-2), key.unsqueeze(-2)  # (B, heads, n, blocks, s, D)
    decay = decay.unsqueeze(-2)  # of a whole block, (B, heads, n, blocks, 1, D)
    while decay.shape[-3] > 1:
        pairs = ((x[..., ::2, :, :], x[..., 1::2, :, :]) for x in (scores, query, key, decay))
        (scores1, scores2), (query1, query2), (key1, key2), (decay1, decay2) = pairs
        across = query2 @ key1.mT
        first, second = torch.cat((scores1, torch.zeros_like(across)), -1), torch.cat((across, scores2), -1)
        scores = torch.cat((first, second), -2)
        query, key = torch.cat((query1, query2 * decay1), -2), torch.cat((key1 * decay2, key2), -2)
        decay = decay1 * decay2
    return scores.squeeze(-3), query.squeeze(-3), key.squeeze(-3)


def _states_before(states: Tensor, log_decay: Tensor) -> Tensor:
    """Returns the state before each chunk, (B, heads, n, D, V).

    states: each chunk's own contribution to the state after it, (B, heads, n, D, V). log_decay: the sum over the tokens
    of each chunk, (B, heads, n, D).
    """
    n = log_decay.shape[-2]
    between = log_decay.mT[..., None].expand(*log_decay.mT.shape, n).tril(-1).cumsum(-2)  # (B, heads, D, n, n)
    after = (between.exp().tril() @ states.transpose(-3, -2)).transpose(-3, -2)
    return F.pad(after[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
