"""First layers that were adapted to other channels are trained in frozen depths, under LoRA, and in later runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import densevit
from densevit.channels import RGB
from densevit.model import DenseModel
from densevit.model.parameter_groups import parameter_groups, parameter_rates
from densevit.model.stem_channels import has_new_filters, stem_tensors
from tests.model.test_stem_channels import FAMILIES

NEW = (("p", "q", "r"), ("red", "green", "blue", "nir"))
FURTHER = [("vit", NEW[1]), *((family, NEW[0]) for family in ("resnet", "mvit", "timm"))]
SETR = {"name": "setr", "decoder": "naive", "width": 8, "norm": "group", "auxiliary": []}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["*"]}


def section(family: str, names: tuple[str, ...], **options: Any) -> dict[str, Any]:
    count = len(names)
    channels = {"names": [*names], "dtype": "float32", "range": [[0.0, 1.0]] * count}
    name = family.partition(",")[0]
    return {
        "name": name,
        **FAMILIES.get(family, {}),
        "channels": channels,
        "mean": [0.5] * count,
        "std": [0.3] * count,
        **options,
    }


def created(backbone: dict[str, Any], weights: Path | None = None) -> DenseModel:
    return densevit.create_model(backbone, {"seg": SETR}, classes=["a", "b"], weights=weights)


def changed_by_a_step(model: DenseModel) -> set[str]:
    """The parameters of the backbone that one step of SGD changes, with layer decay and the same rate for all."""
    model.train()
    groups = parameter_groups(parameter_rates(model, 1e-2, layer_decay=0.9))
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    features = model.backbone(torch.randn(2, len(model.channels.names), 64, 64))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in features]).sum()
    if loss.requires_grad:
        loss.backward()
    torch.optim.SGD(groups, lr=1e-2).step()
    return {name for name, p in model.backbone.named_parameters() if not torch.equal(p, before[name])}


def rate_of(model: DenseModel, name: str) -> float | None:
    rates = parameter_rates(model, 1.0, backbone_lr=0.25, layer_decay=0.5)
    return {rate.name: rate.lr for rate in rates}[f"backbone.{name}"]


# ---- a step ----


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("vit", NEW[0]),
        ("vit", ("green", "red")),
        *(pytest.param(*row, marks=pytest.mark.integration) for row in FURTHER),
    ],
)
def test_a_step_trains_the_stem_exactly_if_it_was_adapted(family, names, tmp_path):
    """From weights of the whole model and of the backbone; with some depths, all depths, patterns, or LoRA frozen."""
    source = created({"name": family.partition(",")[0], **FAMILIES[family]})
    densevit.save(source, tmp_path / "rgb.safetensors")
    weights = tmp_path / "rgb.safetensors"
    depths = len(source.backbone.parameter_depths())
    linear = any(isinstance(module, nn.Linear) for module in source.backbone.modules())
    assert has_new_filters(RGB.names, names) == (names in NEW)
    for i, frozen in enumerate((1, depths, ["*"], None)):
        if frozen is None and not linear:
            continue
        options = section(family, names, **({"lora": LORA} if frozen is None else {"freeze": frozen}))
        model = created(options, weights) if i % 2 else created({**options, "weights": str(weights)})
        assert model.sections is not None
        stem = {*stem_tensors(model.sections.backbone)}
        bare = {key: value for key, value in options.items() if key not in ("lora", "freeze")}
        assert {*model.sections.backbone.adapted_stem} == (stem if names in NEW else set())
        for name in stem:
            expected = 1.0 if names in NEW else None
            assert rate_of(model, name) == expected
        changed = changed_by_a_step(model)
        assert stem & changed == (stem if names in NEW else set())
        others = {name for name in changed - stem if ".lora_" not in name}
        if frozen == 1:
            first = {id(p) for p in model.backbone.parameter_depths()[0]}
            assert not {name for name, p in model.backbone.named_parameters() if id(p) in first} & others
        else:
            assert not others
        if i == 0:
            free = created(bare, weights)
            [name, *_] = stem
            decayed = 0.25 * 0.5 ** (depths - 1)
            assert rate_of(free, name) == (1.0 if names in NEW else decayed)


# ---- files ----


# ---- runs ----
