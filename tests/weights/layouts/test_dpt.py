"""isl-org/DPT's checkpoints: the released lists of names, and a reference model on timm's ViT with these names."""

import math

import pytest
import torch

from densevit.weights.key_mapping import describe, translate
from densevit.weights.label_sets import preset_classes, segmentation_classes
from densevit.weights.layouts import find, recognise, same_tensors

pytestmark = pytest.mark.integration

K, WIDTH, SIDE = 7, 64, 64
WITHOUT_EFFECT = r"pretrained\.model\.(norm|head)\.|scratch\.refinenet4\.resConfUnit1\."


HYBRID = {"variant": "base", "stem": "resnet", "weight_standardization": "std"}
LARGE = {"variant": "large"}
DEPTH = {"name": "dpt", "output": "relative", "norm": "none"}
SEGMENTATION = {"name": "dpt_segmentation"}
RELEASES = {
    "dpt_large-midas": ("dpt", LARGE, DEPTH),
    "dpt_hybrid-midas": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_hybrid_nyu": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_hybrid_kitti": ("dpt-hybrid", HYBRID, DEPTH),
    "dpt_large-ade20k": ("dpt-segmentation", LARGE, SEGMENTATION),
    "dpt_hybrid-ade20k": ("dpt-hybrid-segmentation", HYBRID, SEGMENTATION),
}


@pytest.mark.parametrize(("name", "expected"), RELEASES.items(), ids=RELEASES)
def test_each_tensor_of_a_release_is_used_once_or_listed(name, expected, whole, released):
    layout, backbone, head = expected
    with torch.device("meta"):
        state = released(name)
    assert recognise(state).name == layout
    width = 1024 if backbone is LARGE else 768
    assert describe(state, find(layout)) == {
        "backbone": {
            "name": "vit",
            "patch_size": 16,
            "image_size": 384,
            "readout": "project",
            "feature_norm": False,
            "position_resizing": "bilinear",
        }
        | backbone,
        "heads": {
            "depth" if head is DEPTH else "segmentation": {
                "width": 256,
                "reassemble_channels": [256, 512, width, width],
            }
            | head
        },
    }
    model = whole(state, find(layout), WITHOUT_EFFECT)
    idle = translate(state, find(layout)).left_out
    assert len(idle) == (8 if head is DEPTH else 16)  # four of the ViT's, and a unit's convolutions and norms
    if head is SEGMENTATION:
        assert model.heads["segmentation"].classes == preset_classes("ade20k")
    total = sum(x.numel() for key, x in state.items() if key not in idle and "pos_embed" not in key)
    table = state["pretrained.model.pos_embed"].numel() - width  # the class token's row is added to the token
    assert sum(x.numel() for x in model.state_dict().values()) == total + table


@pytest.mark.parametrize(
    ("name", "scale", "shift", "max_depth"),
    [("nyu", 0.000305, 0.1378, 10.0), ("kitti", 0.00006016, 0.00579, 80.0)],
)
def test_metric_releases_give_metric_depth(name, scale, shift, max_depth, whole, released):
    with torch.device("meta"):
        state = released(f"dpt_hybrid_{name}")
    model = whole(state, find(f"dpt-hybrid-{name}"), WITHOUT_EFFECT)
    head = model.heads["depth"]
    assert head.quantity == "depth"
    assert (head.output, head.scale, head.shift, head.max_depth) == ("inverse", scale, shift, max_depth)


def test_tensors_of_several_layouts_name_them_all():
    assert same_tensors(find("dpt-hybrid")) == ["dpt-hybrid-nyu", "dpt-hybrid-kitti"]
    assert same_tensors(find("dpt")) == []


def test_classes_are_known_by_number_and_name():
    ade, city = preset_classes("ade20k"), preset_classes("cityscapes")
    assert (len(ade), ade[0].name, ade[0].file_id, len(city), city[0].name, city[0].file_id) == (
        *(150, "wall", 1),
        *(19, "road", 7),
    )
    names = [f"{one.name}, another word " for one in ade]
    names[7] = "berth"
    assert segmentation_classes(150) == segmentation_classes(150, names) == ade
    own = segmentation_classes(150, [f"tile {i}" for i in range(150)])
    assert (own[3].name, own[3].file_id, own[3].thing) == ("tile 3", 3, False)
    assert [one.name for one in segmentation_classes(3)] == ["class 0", "class 1", "class 2"]
    assert [one.name for one in segmentation_classes(2, ["cat ", "dog"])] == ["cat", "dog"]
    assert math.prod(len({one.color for one in group}) for group in (own, city)) == 150 * 19
