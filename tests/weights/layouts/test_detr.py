"""facebookresearch/detr's checkpoints: released names, classes and rows."""

from itertools import chain

import pytest
import torch

from densevit.data.datasets.coco_json import color_of
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import recognise
from densevit_heads.detr.checkpoints import DETR, IMPOSSIBLE
from tests.weights.layouts.test_detr_originals import recorded

pytestmark = pytest.mark.integration

UNUSED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # of COCO's 91 ids, the ones without a class
USED = [i for i in range(91) if i not in UNUSED]
THIRDS = "in_proj_"


def test_classes_match_coco_s_files():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    classes = coco_classes()
    assert [i for i, name in enumerate(NAMES_BY_ID) if name not in ("__background__", "N/A")] == USED
    assert [(one.name, one.file_id) for one in classes] == [(NAMES_BY_ID[i], i) for i in USED]
    assert [one.color for one in classes] == [color_of(i) for i in range(80)]
    assert all(one.thing for one in classes)


def test_each_tensor_of_the_released_r50_is_used_once(whole, released):
    with torch.device("meta"):
        state = released("detr_r50")
    frozen = ("running_mean", "running_var", "backbone.0.body.conv1.", "backbone.0.body.layer1.")
    norms = (".bn", ".downsample.1.", ".body.bn1.")
    trained = [t for n, t in state.items() if not any(p in n for p in frozen + (norms if "body" in n else ()))]
    assert sum(tensor.numel() for tensor in trained) == 41302368  # "number of params" in its training log

    model = whole(state, DETR, thirds=THIRDS)
    unused = len(UNUSED) * (256 + 1)
    count = sum(tensor.numel() for tensor in state.values())
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == count - unused
    assert set(chain(*translate(state, DETR).origins.values())) == set(state)
    assert describe(state, DETR) == {
        "backbone": {"name": "resnet", "depth": 50, "dilation": False, "norm": "frozen", "frozen_stages": 2},
        "heads": {
            "detection": {
                "name": "detr",
                "num_queries": 100,
                "transformer": {
                    "width": 256,
                    "num_heads": 8,
                    "encoder_layers": 6,
                    "decoder_layers": 6,
                    "feedforward": 2048,
                },
                "positions": "sine",
                "pre_norm": False,
            }
        },
    }


def test_each_tensor_of_an_r101_is_used_once(whole, released):
    with torch.device("meta"):
        state = released("detr_r50")
    last = "backbone.0.body.layer3.5."
    for key in [key for key in state if key.startswith(last)]:
        state |= {key.replace(last, f"backbone.0.body.layer3.{i}."): state[key] for i in range(6, 23)}
    assert whole(state, DETR, thirds=THIRDS).architecture.backbone.options["depth"] == 101


def test_unused_rows_are_written_without_effect():
    state, _ = recorded("detr")
    back, unknown = translate_back(translate(state, DETR).tensors, DETR)
    assert unknown == [] and set(back) == set(state)
    for name, tensor in state.items():
        rows = [*USED, 91] if name.startswith("class_embed") else slice(None)
        assert torch.equal(back[name][rows], tensor[rows]), name
    assert not back["class_embed.weight"][UNUSED].any()
    assert torch.equal(back["class_embed.bias"][UNUSED], torch.full((len(UNUSED),), IMPOSSIBLE))


def test_custom_classes_keep_their_rows(whole):
    state = recorded("detr")[0] | {"class_embed.weight": torch.randn(6, 32), "class_embed.bias": torch.randn(6)}
    classes = DETR.classes(state, {})["detection"]
    assert [(one.name, one.file_id) for one in classes] == [(f"class {i}", i) for i in range(5)]
    whole(state, DETR, thirds=THIRDS)
    back, _ = translate_back(translate(state, DETR).tensors, DETR)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_checkpoint_is_recognised(released):
    assert recognise(released("detr_r50")) is DETR


def test_panoptic_tensors_are_unknown():
    state = {**recorded("detr")[0], "mask_head.lay1.weight": torch.zeros(8, 8, 3, 3)}
    assert translate(state, DETR).unknown == ["mask_head.lay1.weight"]


def test_incomplete_checkpoint_raises(released):
    state = {name: tensor for name, tensor in released("detr_r50").items() if "query_embed" not in name}
    with pytest.raises(WeightsError, match="no tensor for 'heads.detection.query_embedding.weight'"):
        describe(state, DETR)
