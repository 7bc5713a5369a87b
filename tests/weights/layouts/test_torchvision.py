from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find

if TYPE_CHECKING:
    from torchvision.models import VisionTransformer


pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"depth": 18}),
        ("resnet34", {"depth": 34}),
        ("resnet50", {"depth": 50}),
        ("resnet101", {"depth": 101}),
        ("resnet152", {"depth": 152}),
        ("resnext50_32x4d", {"depth": 50, "groups": 32, "width_per_group": 4}),
        ("resnext101_32x8d", {"depth": 101, "groups": 32, "width_per_group": 8}),
        ("resnext101_64x4d", {"depth": 101, "groups": 64, "width_per_group": 4}),
        ("wide_resnet50_2", {"depth": 50, "groups": 1, "width_per_group": 128}),
        ("wide_resnet101_2", {"depth": 101, "groups": 1, "width_per_group": 128}),
    ],
)
def test_all_resnets_are_translated_completely(name, options, loaded):
    import torchvision

    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
    loaded(state, "torchvision-resnet")
    assert describe(state, find("torchvision-resnet")) == {"backbone": {"name": "resnet", **options}}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vit_b_16", {}, ("base", 16, 224)),
        ("vit_b_32", {}, ("base", 32, 224)),
        ("vit_l_16", {}, ("large", 16, 224)),
        ("vit_l_32", {}, ("large", 32, 224)),
        ("vit_h_14", {}, ("huge", 14, 224)),
        ("vit_b_16", {"image_size": 384}, ("base", 16, 384)),
        ("vit_h_14", {"image_size": 518}, ("huge", 14, 518)),
    ],
)
def test_all_vits_are_translated_completely(name, options, expected, loaded):
    import torchvision

    with torch.device("meta"):
        state = torchvision.models.get_model(name, **options).state_dict()
    loaded(state, "torchvision-vit")
    variant, patch_size, image_size = expected
    section = {"name": "vit", "variant": variant, "patch_size": patch_size, "image_size": image_size}
    assert describe(state, find("torchvision-vit")) == {"backbone": section}


@pytest.mark.parity("torchvision-resnet")
@pytest.mark.parametrize(("norm", "size"), [("batch", (71, 90)), ("group", (64, 53))])
def test_resnet_features_match_torchvision(norm, size, loaded, randomise):
    import torchvision

    options = {"norm_layer": partial(nn.GroupNorm, 32)} if norm == "group" else {}
    reference = randomise(torchvision.models.resnet18(**options))
    state = reference.state_dict()
    resnet = loaded(state, "torchvision-resnet")
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for found, stage in zip(resnet(images), (getattr(reference, f"layer{i}") for i in (1, 2, 3, 4)), strict=True):
            x = stage(x)
            torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(resnet.state_dict(), find("torchvision-resnet"))
    assert unknown == [] and state.keys() - back.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(back[key], state[key]) for key in back)


def vit_of_torchvision() -> "VisionTransformer":
    from torchvision.models import VisionTransformer

    return VisionTransformer(48, 16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=7).eval()


def cells(reference: "VisionTransformer", images: torch.Tensor) -> torch.Tensor:
    x = reference._process_input(images)
    x = reference.encoder(torch.cat([reference.class_token.expand(len(x), -1, -1), x], 1))
    return x[:, 1:].transpose(1, 2).unflatten(2, (3, 3))


@pytest.mark.parity("torchvision-vit")
def test_vit_features_match_torchvision_and_round_trip(loaded, randomise):
    reference, again, layout = randomise(vit_of_torchvision()), vit_of_torchvision(), find("torchvision-vit")
    state = reference.state_dict()
    vit = loaded(state, "torchvision-vit")
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(vit(images)[-1], cells(reference, images), atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(vit.state_dict(), layout)
    assert unknown == []
    again.load_state_dict({**again.state_dict(), **back})
    with torch.no_grad():
        assert torch.equal(cells(again, images), cells(reference, images))
    # A class token includes its position here: the export has the sum, and zeros as its position.
    assert torch.equal(back["class_token"], state["class_token"] + state["encoder.pos_embedding"][:, :1])
    assert back["encoder.pos_embedding"][:, 0].eq(0).all()
    assert torch.equal(back["encoder.pos_embedding"][:, 1:], state["encoder.pos_embedding"][:, 1:])
    rest = state.keys() - {"class_token", "encoder.pos_embedding", "heads.head.weight", "heads.head.bias"}
    assert back.keys() == rest | {"class_token", "encoder.pos_embedding"}
    assert all(torch.equal(back[key], state[key]) for key in rest)
    twice = translate(back, layout).tensors
    assert twice.keys() == vit.state_dict().keys()
    assert all(torch.equal(twice[key], x) for key, x in vit.state_dict().items())


def test_first_released_files_rename_mlps(randomise, loaded):
    state = randomise(vit_of_torchvision()).state_dict()
    old = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): x for key, x in state.items()}
    assert old.keys() != state.keys()
    of_old, of_new = (loaded(x, "torchvision-vit").state_dict() for x in (old, state))
    assert all(torch.equal(of_old[key], of_new[key]) for key in of_new)


def test_unknown_variant_is_described_and_refused():
    from torchvision.models import VisionTransformer

    layout = find("torchvision-vit")
    with torch.device("meta"):
        state = VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=100, mlp_dim=400).state_dict()
    with pytest.raises(WeightsError, match="100 channels and 1 blocks .* base 768"):
        describe(state, layout)
    with pytest.raises(WeightsError, match="is incomplete.*norm1"):
        describe({}, layout)
