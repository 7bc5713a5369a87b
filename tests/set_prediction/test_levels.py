"""Levels of features: their choice, projections, positions and coordinates."""

import math

import pytest
import torch
from torch.nn import functional as F

from densevit.layers.positions import sine_map
from densevit.set_prediction.levels import LevelProjections, Levels, check_levels, valid_ratio
from densevit.set_prediction.transformer import Transformer


def test_positions_are_relative_to_the_image_without_padding():
    """Of an image of 2 x 4 cells in 3 x 5: the angle of column 1 is 1.5 / 4 of a turn, that of row 1 1.5 / 2."""
    padding = F.pad(torch.zeros(1, 2, 4), (0, 1, 0, 1), value=1.0).bool()
    assert valid_ratio(padding)[0].tolist() == pytest.approx([4 / 5, 2 / 3])
    angles = [2 * math.pi * share / wavelength for share in (1.5 / 2, 1.5 / 4) for wavelength in (1, 100)]
    expected = [value for angle in angles for value in (math.sin(angle), math.cos(angle))]
    assert sine_map(padding, 8, centred=True)[0, 1, 1].tolist() == pytest.approx(expected, abs=1e-5)
    levels = Levels.of([torch.arange(30.0).view(1, 2, 3, 5), torch.ones(1, 2, 1, 1)], [padding, padding[:, :1, :1]])
    assert levels.tokens[0, 7].tolist() == [7, 22] and levels.shapes == [(3, 5), (1, 1)]
    assert levels.centres[0, 6:9].flatten().tolist() == pytest.approx([3 / 8, 3 / 4, 5 / 8, 3 / 4, 7 / 8, 3 / 4])
    assert levels.centres[0, 15].tolist() == [0.5, 0.5] and levels.padding.sum() == 7 and not levels.positions.any()
    on_maps = levels.on_maps(torch.tensor([[[0.5, 0.5, 1.0, 0.1]]]))
    torch.testing.assert_close(on_maps[0, 0], torch.tensor([[0.4, 1 / 3, 0.8, 0.2 / 3], [0.5, 0.5, 1.0, 0.1]]))


@pytest.mark.parametrize("blank", [False, True])
def test_levels_are_the_deepest_features_of_coarse_strides_and_convolutions_of_the_last(blank: bool):
    """The second image is 32 x 48 of 64 x 64."""
    channels, strides = (3, 4, 5, 6, 7), (4, 8, 8, 16, 16)
    layer = LevelProjections(channels, strides, 32, num_levels=4, min_stride=8, blank_padding=blank)
    mask = torch.stack([torch.zeros(64, 64), F.pad(torch.zeros(32, 48), (0, 16, 0, 32), value=1.0)]).bool()
    features = [torch.randn(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]
    levels = layer(features, mask)
    fine, coarse = (x * ~mask[:, None, ::s, ::s] if blank else x for x, s in ((features[2], 8), (features[4], 16)))
    maps = []
    for (convolution, norm), x in zip(layer.projections, (fine, coarse, coarse, None), strict=True):
        options = {} if len(maps) < 2 else {"stride": 2, "padding": 1}
        x = F.conv2d(maps[-1] if x is None else x, convolution.weight, **options)
        maps.append(F.group_norm(x, 32, norm.weight, norm.bias))
    assert levels.shapes == [(8, 8), (4, 4), (2, 2), (1, 1)]
    torch.testing.assert_close(levels.tokens, torch.cat([x.flatten(2).mT for x in maps], dim=1))
    paddings = [mask[:, ::s, ::s] for s in (8, 16, 32, 64)]
    assert torch.equal(levels.padding, torch.cat([x.flatten(1) for x in paddings], dim=1))
    positions = [
        sine_map(x, 32, centred=True).flatten(1, 2) + e for x, e in zip(paddings, layer.embedding, strict=True)
    ]
    torch.testing.assert_close(levels.positions, torch.cat(positions, dim=1))
    assert LevelProjections(channels, strides, 32, num_levels=1, min_stride=8).features == [4]


@pytest.mark.parametrize(
    ("transformer", "numbers", "message"),
    [
        ({}, (0, 8, 4), "num_levels is 0"),
        ({}, (4, 8, 0), "num_points is 0"),
        ({}, (4, 0, 4), "min_stride is 0"),
        ({"encoder_layers": 0}, (4, 8, 4), "transformer.encoder_layers is 0"),
        ({"width": 48}, (4, 8, 4), "transformer.width is 48; it must be a multiple of 32"),
    ],
)
def test_numbers_outside_the_limits_are_named(transformer: dict[str, int], numbers: tuple[int, ...], message: str):
    check_levels(Transformer(64), 1, 1, 1)
    with pytest.raises(ValueError, match=message):
        check_levels(Transformer(**{"width": 64, **transformer}), *numbers)
