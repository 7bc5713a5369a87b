"""Windows by one gather beside the separate steps."""

import pytest
import torch

from densevit.layers import windows as plain
from densevit.layers.fast.windows import shifted_windows
from tests.gradient_comparison import assert_same_with_gradients
from tests.layers.test_windows import CASES


@pytest.mark.parametrize(("size", "window", "shift", "rule"), CASES)
def test_windows_and_gradients_are_those_of_the_separate_steps(size, window, shift, rule):
    """Of two images, two heads and three channels of each; padding has a value that is learned."""
    qkv, fill = torch.randn(2, *size, 18, requires_grad=True), torch.randn(18, requires_grad=True)
    gathered, separate = (f(qkv, window, shift, 2, rule) for f in (shifted_windows, plain.shifted_windows))
    found, expected = (windows.partition(qkv, fill) for windows in (gathered, separate))
    assert_same_with_gradients([found.flatten(1, 2)], [expected.flatten(1, 2)], [qkv, fill])
    assert torch.equal(gathered.reverse(found[0]), separate.reverse(expected[0]))
    if any(separate.steps):
        assert torch.equal(gathered.mask, separate.mask)
