"""Average pooling without padding, in each precision."""

import pytest
import torch

from densevit.layers.pooling import masked_mean


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_mean_of_large_values_is_finite_and_exact(dtype: torch.dtype) -> None:
    """32 x 24 cells of 100 inside of the padding: their sum, 76,800, is above fp16's largest number."""
    x = torch.full((1, 2, 32, 32), 100.0, dtype=dtype)
    x[..., 24:] = 7.0
    padding_mask = torch.zeros(1, 128, 128, dtype=torch.bool)
    padding_mask[..., 96:] = True
    assert masked_mean(x, padding_mask).tolist() == [[100.0, 100.0]]
    assert masked_mean(x, padding_mask).dtype == dtype
