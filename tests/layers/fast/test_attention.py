"""Where attention takes torch's fused kernel, and that it is exact."""

import pytest
import torch
from torch.nn import functional as F

from densevit.layers.fast.attention import attention


@pytest.mark.parametrize(
    ("queries", "keys", "dtype", "bias", "dropout", "expected"),
    [
        (192, 192, torch.float32, None, 0.0, True),
        (192, 192, torch.float32, "padding", 0.0, True),
        (192, 192, torch.float32, "learned", 0.0, False),
        (192, 192, torch.float32, None, 0.1, False),
        (191, 850, torch.float32, "padding", 0.0, False),
        (850, 191, torch.float32, None, 0.0, False),
        (400, 400, torch.bfloat16, None, 0.0, False),
        (100, 1025, torch.bfloat16, None, 0.0, True),
    ],
)
def test_the_fused_kernel_is_used_where_it_is_as_fast(queries, keys, dtype, bias, dropout, expected, monkeypatch):
    used, fused = [], F.scaled_dot_product_attention

    def recorded(*args, **kwargs):
        used.append(True)
        return fused(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    query, key, value = (torch.randn(2, 2, n, 8, dtype=dtype) for n in (queries, keys, keys))
    added = None if bias is None else torch.randn(2, 1, 1, keys, dtype=dtype, requires_grad=bias == "learned")
    found = attention(query, key, value, added, dropout)
    assert bool(used) is expected
    if not dropout:
        scores = query.double() @ key.double().mT / 8**0.5 + (0 if added is None else added.double())
        error = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(found.double(), scores.softmax(-1) @ value.double(), atol=error, rtol=error)
