"""The evaluation sizes of `default`: multiples of a patch, as in the authors' code of Depth Anything 3."""

import pytest

from densevit.data.transforms.default import DefaultTransforms
from densevit.errors import ConfigError


def nearest(side: int) -> int:
    """Of the multiples of 14 below and above, the nearer one; of two, the one above."""
    below = side // 14 * 14
    return below + 14 if below + 14 - side <= side - below else below


def test_sides_are_the_nearest_multiples_of_a_patch():
    transforms = DefaultTransforms(504, multiple=14)
    assert transforms.evaluation_size(375, 1242) == (154, 504)  # 152 x 504 with the aspect ratio
    for height in range(20, 1500, 37):
        for width in range(20, 1500, 41):
            scale = 504 / max(height, width)
            expected = tuple(max(14, nearest(round(side * scale))) for side in (height, width))
            assert transforms.evaluation_size(height, width) == expected
    assert transforms.evaluation_bounds() == {"long_side": 504}
    assert DefaultTransforms(None, multiple=14).evaluation_size(375, 7) == (378, 14)
    assert DefaultTransforms((100, 300), multiple=14).evaluation_size(300, 300) == (98, 98)  # fits into 100 x 300
    with pytest.raises(ConfigError, match=r"multiple is 0; .* 1 or more"):
        DefaultTransforms(504, multiple=0)
