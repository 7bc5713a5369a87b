"""The options inferred from the tensors of each variant are those it was built with."""

import pytest
import torch

import densevit
from densevit.errors import WeightsError
from densevit_backbones.mvit import inferred_options as mvit
from densevit_backbones.mvit.variants import VARIANTS as MVIT
from densevit_backbones.resnet import inferred_options as resnet
from densevit_backbones.swin import inferred_options as swin
from densevit_backbones.vit import inferred_options as vit

CASES = [
    *((vit, {"variant": name}) for name in ("nano", "large", "giant")),
    (vit, {"variant": "nano", "registers": 3, "swiglu": True, "layer_scale": 1e-5, "patch_size": 14, "image_size": 56}),
    (vit, {"variant": "base", "stem": "resnet", "patch_size": 16}),
    *((swin, {"variant": name, "version": v}) for name, v in (("nano", 1), ("base", 2))),
    *((mvit, {"variant": name, "version": version}) for version, own in MVIT.items() for name in own),
    *((resnet, {"depth": depth}) for depth in (18, 34, 50, 101, 152)),
    (resnet, {"depth": 50, "groups": 32, "width_per_group": 4, "variant": "d"}),
]


@pytest.mark.parametrize(("family", "options"), CASES, ids=str)
def test_a_variant_is_described_as_it_was_built(family, options):
    name = family.__name__.split(".")[1]
    with torch.device("meta"):
        tensors = densevit.create_backbone(name, **options).state_dict()
        rule = ("per_axis",) if family is swin else ()
        section = family.describe(tensors, *rule)["backbone"]
        again = densevit.create_backbone(**section).state_dict()
    assert section["name"] == name and section.items() >= options.items()
    assert {key: x.shape for key, x in again.items()} == {key: x.shape for key, x in tensors.items()}


def test_tensors_of_no_variant_are_refused():
    with torch.device("meta"):
        tensors = densevit.create_backbone("resnet", depth=18).state_dict()
    del tensors["layer4.1.conv1.weight"]
    with pytest.raises(WeightsError, match=r"\(2, 2, 2, 1\) basic blocks is not a known depth: 18 \(2, 2, 2, 2\)"):
        resnet.describe(tensors)
