"""The faster deformable attention beside the plain one."""

import pytest

from densevit.layers import deformable_attention as plain
from densevit.layers.fast.deformable_attention import multi_scale_deformable_attention
from tests.gradient_comparison import assert_same_with_gradients
from tests.layers.test_deformable_attention import CASES, SHAPES, make_inputs


@pytest.mark.parametrize(("shapes", "points", "learned"), CASES, ids=str)
def test_values_and_gradients_are_those_of_the_plain_function(shapes, points, learned):
    inputs = [x.detach().requires_grad_(i in learned) for i, x in enumerate(make_inputs(shapes, points=points))]
    arguments = inputs[0], shapes, *inputs[1:]
    found = multi_scale_deformable_attention(*arguments)
    expected = plain.multi_scale_deformable_attention(*arguments)
    assert_same_with_gradients([found], [expected], [inputs[i] for i in learned])


@pytest.mark.parametrize("sampling", ["grid_sample", "discrete"])
def test_points_per_level_and_discrete_sampling_are_those_of_the_plain_function(sampling):
    value, locations, weights = make_inputs(points=2)  # 8 points in all
    arguments = value, SHAPES, locations.flatten(3, 4), weights.flatten(3)
    found, expected = (
        function(*arguments, points=[3, 1, 2, 2], sampling=sampling)
        for function in (multi_scale_deformable_attention, plain.multi_scale_deformable_attention)
    )
    learned = [value, locations, weights] if sampling == "grid_sample" else [value, weights]
    assert_same_with_gradients([found], [expected], learned)
