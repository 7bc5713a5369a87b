"""Layer-wise learning-rate decay and factors by name: by hand, and against timm."""

import re
import warnings

import pytest
from torch import nn

import densevit
from densevit.config import OptimSection
from densevit.errors import ConfigError
from densevit.interfaces import Backbone
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups
from densevit.training.loop.optim import optimizer_of
from densevit.training.loop.optim import rates_of as rates_of_section
from tests.small_models import Pixels, StandIn


def steps() -> Backbone:
    """Three depths by default: a parameter, and two modules."""
    return Pixels(first=nn.Conv2d(3, 2, 1), second=nn.Conv2d(2, 2, 1))


def wrapped() -> Backbone:
    """The whole model is one child."""
    return Pixels(scale=None, net=nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)))


def model_of(backbone: Backbone | None = None) -> DenseModel:
    """With a head of two linear layers."""
    head = StandIn(scale=None, offsets=nn.Linear(2, 2), output=nn.Linear(2, 2))
    return DenseModel(backbone or steps(), {"boxes": head})


def rates_of(model: DenseModel, lr: float = 1.0, **options) -> dict[str, float | None]:
    return {rate.name: rate.lr for rate in rates_of_section(model, OptimSection(**options), lr)}


def by_name(groups: list[dict], model: nn.Module, key: str) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group[key] for group in groups for parameter in group["params"]}


def test_freezing_backbone_lr_layer_decay_and_factors_combine():
    model = model_of()
    model.backbone.first.weight.requires_grad_(False)
    factors = {"heads.boxes.offsets.*": 0.1, "*.bias": 3.0, "backbone.sec*": 10.0}
    options = {"backbone_lr": 0.4, "layer_decay": 0.5, "weight_decay": 0.2, "lr_factors": factors}
    expected = {
        "backbone.scale": 0.1,  # 0.4 / 4
        "backbone.first.weight": None,
        "backbone.first.bias": 0.6,  # 0.4 / 2 * 3
        "backbone.second.weight": 4.0,  # 0.4 * 10
        "backbone.second.bias": 12.0,  # 0.4 * 10 * 3
        "heads.boxes.offsets.weight": 0.1,
        "heads.boxes.offsets.bias": 0.3,  # 0.1 * 3
        "heads.boxes.output.weight": 1.0,
        "heads.boxes.output.bias": 3.0,
    }
    assert rates_of(model, **options) == pytest.approx(expected)
    other_order = {**options, "lr_factors": dict(reversed(factors.items()))}
    assert rates_of(model, **other_order) == pytest.approx(expected)
    optimizer = optimizer_of(model, OptimSection(**options), lr=1.0)
    trained = {name: rate for name, rate in expected.items() if rate is not None}
    assert by_name(optimizer.param_groups, model, "lr") == pytest.approx(trained)
    decays = by_name(optimizer.param_groups, model, "weight_decay")
    assert decays == {name: 0.2 if name.endswith("weight") else 0.0 for name in trained}


# ---- timm's ----


def scales(model: nn.Module, decay: float) -> dict[str, float]:
    from timm.optim import param_groups_layer_decay

    return by_name(param_groups_layer_decay(model, layer_decay=decay), model, "lr_scale")


def vit_place(name: str) -> str:
    block = re.match(r"blocks\.\d+", name)
    return block[0] if block else name.split(".")[0] if name.startswith(("norm", "head")) else "stem"


def test_vit_rates_match_timm_except_for_the_final_norm():
    """timm assigns the norm to the last block; MAE's and BEiT's code to the head, as ours does."""
    import timm

    reference = timm.create_model("vit_tiny_patch16_224", depth=6, embed_dim=64, num_heads=2)
    theirs = {vit_place(name): scale for name, scale in scales(reference, 0.7).items()}
    backbone = densevit.create_backbone("vit", variant="nano")  # of 6 blocks
    rates = rates_of(model_of(backbone), layer_decay=0.7)
    ours = {name.removeprefix("backbone."): rate for name, rate in rates.items() if name.startswith("backbone.")}
    assert {vit_place(name) for name in ours} == {place for place in theirs if place != "head"}
    for name, rate in ours.items():
        expected = theirs["head"] if vit_place(name) == "norm" else theirs[vit_place(name)]
        assert rate == pytest.approx(expected), name
    assert (ours["class_token"], ours["norm.weight"]) == (pytest.approx(0.7**7), 1.0)  # MAE's, with 6 blocks


def test_timm_backbones_have_timm_s_scales():
    backbone = densevit.create_backbone("timm", model="test_vit")
    expected = {f"backbone.model.{name}": scale for name, scale in scales(backbone.model, 0.7).items()}
    rates = rates_of(model_of(backbone), layer_decay=0.7)
    found = {name: rate for name, rate in rates.items() if name.startswith("backbone.")}
    assert len(set(expected.values())) >= 5 and found == pytest.approx(expected)


# ---- errors ----


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("heads.boxes.offset.*", "heads.boxes.offsets.*"),
        ("first.*", "*.first.*"),
        ("zzz", "Available: backbone.*, heads.*."),
    ],
)
def test_unmatched_pattern_suggests_the_nearest(pattern, near):
    with pytest.raises(ConfigError) as caught:
        rates_of(model_of(), lr_factors={"heads.*": 2.0, pattern: 2.0})
    assert f"optim.lr_factors: no parameter matches {pattern!r}." in str(caught.value) and near in str(caught.value)


def test_untrainable_configurations_raise_and_layer_decay_without_effect_is_a_warning():
    model = model_of()
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="at least one must be trained"):
        parameter_groups(rates_of_section(model, OptimSection(), 1.0))
    with pytest.warns(UserWarning, match=r"layer_decay=0.7 has no effect: .* Pixels .* override its parameter_depths"):
        assert set(rates_of(model_of(wrapped()), layer_decay=0.7).values()) == {1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates_of(model_of(wrapped()))
        rates_of(model_of(), layer_decay=0.7)
