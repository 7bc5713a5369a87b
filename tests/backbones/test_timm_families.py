"""timm's families that differ in sizes, strides or grids pass the contract and match timm's own model."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.random_weights import randomise


@pytest.mark.integration
# The smallest published model of each, with fewer blocks where timm's constructor allows it, and the strides.
@pytest.mark.parametrize(
    ("name", "model_args", "strides", "fixed", "resampled"),
    [  # whether its input size is fixed, and which of its maps are resampled
        ("swinv2_tiny_window8_256", {"embed_dim": 48, "depths": (2, 2, 2, 1)}, (4, 8, 16, 32), False, ()),
        ("mvitv2_tiny", {}, (4, 8, 16, 32), True, ()),
        ("pit_ti_224", {}, (8, 16, 32), True, (0,)),
        ("crossvit_9_240", {}, (12, 17), True, (1,)),
        ("lambda_resnet26rpt_256", {}, (4, 8, 16, 32), True, ()),
        (
            "hiera_tiny_224",
            {"embed_dim": 48, "num_heads": 1, "stages": (1, 1, 2, 1)},
            (4, 8, 16, 32),
            True,
            (),
        ),
    ],
    ids=lambda x: str(x)[:20],
)
def test_family_meets_the_contract_and_matches_timm(name, model_args, strides, fixed, resampled):
    from densevit_backbones.timm import Timm

    backbone = Timm(name, image_size=64, model_args=model_args).eval()
    assert backbone.strides == strides
    assert backbone.input_size == ((64, 64) if fixed else None)
    assert backbone.resampled == tuple(i in resampled for i in range(len(strides)))
    randomise(backbone)
    numbers_are_timm_s(backbone, name, model_args)
    for size in ((59, 41), (83, 70)):  # the second is larger than the fixed size
        images = torch.randn(1, 3, *size, requires_grad=True)
        features = backbone(images)
        assert len(features) == len(strides)
        assert [x.shape[1] for x in features] == [*backbone.channels]
        assert [tuple(x.shape[2:]) for x in features] == [(-(-size[0] // s), -(-size[1] // s)) for s in strides]
        assert all(x.isfinite().all() for x in features)
    for feature in features:
        (reached,) = torch.autograd.grad(feature.square().mean(), images, retain_graph=True)
        assert reached.isfinite().all()
        assert reached.ne(0).any(1).float().mean() > 0.5
    grouped = [id(p) for group in backbone.parameter_depths() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in backbone.parameters())


def numbers_are_timm_s(backbone: Any, name: str, model_args: dict) -> None:
    """At the built size, timm's unmodified model gives the same maps."""
    import timm

    size = backbone.built_size
    options = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    reference: nn.Module = timm.create_model(name, **options, **model_args).eval()
    loaded = reference.load_state_dict(backbone.model.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, intermediates_only=True)
        found = backbone(images)
    agree = 0
    for index, feature in zip(chosen(backbone, expected), found, strict=True):
        if expected[index].shape == feature.shape:
            agree += 1
            scale = expected[index].abs().mean()
            torch.testing.assert_close(feature / scale, expected[index] / scale, atol=1e-4, rtol=1e-4)
    assert agree == len(found) - sum(backbone.resampled)


def chosen(backbone: Any, maps: list) -> list[int]:
    """Indices of timm's maps that are selected by default, computed independently of the plugin."""
    if len(backbone.strides) == 2:
        return [2, 5]  # CrossViT: the last block of each branch
    return list(range(len(maps) - len(backbone.strides), len(maps)))
