"""The authors' checkpoints of DETR and Deformable DETR: released names, classes, rows, copies and refused tensors."""

import re

import pytest
import torch

from densevit.data.datasets.coco_json import color_of
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.label_sets import coco_classes
from densevit.weights.layouts import find, recognise
from densevit_heads.deformable_detr.checkpoints import DEFORMABLE_DETR
from densevit_heads.detr.checkpoints import DETR, IMPOSSIBLE
from tests.weights.layouts.originals.weights import random_detr
from tests.weights.layouts.recordings import recorded

pytestmark = pytest.mark.integration

UNUSED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # of COCO's 91 ids, the ones without a class
USED = [i for i in range(91) if i not in UNUSED]
THIRDS = "in_proj_"
R50 = {"name": "resnet", "depth": 50, "dilation": False, "norm": "frozen", "frozen_stages": 2}
TRANSFORMER = {"width": 256, "num_heads": 8, "encoder_layers": 6, "decoder_layers": 6}


def state_of(original):
    return random_detr(recorded(original)[0])


def test_classes_match_coco_s_files():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    assert [i for i, name in enumerate(NAMES_BY_ID) if name not in ("__background__", "N/A")] == USED
    assert [(one.name, one.file_id) for one in coco_classes()] == [(NAMES_BY_ID[i], i) for i in USED]
    assert [one.color for one in coco_classes()] == [color_of(i) for i in range(80)]
    assert all(one.thing for one in coco_classes())


def test_released_names_are_described(whole, released):
    with torch.device("meta"):
        state = released("detr_r50")
    assert recognise(state) is DETR
    model = whole(state, DETR, thirds=THIRDS)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41302368 - len(UNUSED) * (256 + 1)
    transformer = {**TRANSFORMER, "feedforward": 2048}
    head = {"name": "detr", "num_queries": 100, "transformer": transformer, "positions": "sine", "pre_norm": False}
    assert describe(state, DETR) == {"backbone": R50, "heads": {"detection": head}}
    del state["query_embed.weight"]
    with pytest.raises(WeightsError, match="no tensor for 'heads.detection.query_embedding.weight'"):
        describe(state, DETR)

    with torch.device("meta"):
        state = DEFORMABLE_DETR.special.rearrange.forward(released("deformable_detr_r50_two_stage"))
    head = {"name": "deformable_detr", "num_queries": 300, "transformer": {**TRANSFORMER, "feedforward": 1024}}
    head |= {"num_levels": 4, "min_stride": 8, "num_points": 4, "box_refinement": True, "two_stage": True}
    assert describe(state, DEFORMABLE_DETR) == {
        "backbone": R50, "heads": {"detection": head | {"blank_padding": False}},
    }  # fmt: skip
    for name in [name for name in state if re.search(r"decoder.*(sampling_offsets|attention_weights)", name)]:
        state[name] = state[name][: len(state[name]) // 2]
    with pytest.raises(WeightsError, match="expected the same number in encoder and decoder"):
        describe(state, DEFORMABLE_DETR)


# ---- rows of classes ----


def test_unused_rows_are_written_without_effect():
    state = state_of("detr")
    back, unknown = translate_back(translate(state, DETR).tensors, DETR)
    assert unknown == [] and set(back) == set(state)
    for name, tensor in state.items():
        rows = [*USED, 91] if name.startswith("class_embed") else slice(None)
        assert torch.equal(back[name][rows], tensor[rows]), name
    assert not back["class_embed.weight"][UNUSED].any()
    assert torch.equal(back["class_embed.bias"][UNUSED], torch.full((len(UNUSED),), IMPOSSIBLE))

    state = state_of("deformable-detr-two-stage")
    back, _ = translate_back(translate(state, DEFORMABLE_DETR).tensors, DEFORMABLE_DETR)
    proposals = "class_embed.2"  # after the two layers of the decoder
    assert back["class_embed.0.bias"][UNUSED].sigmoid().max() == 0
    assert back["class_embed.0.weight"][UNUSED].abs().max() == 0
    assert torch.equal(back[f"{proposals}.weight"][0], state[f"{proposals}.weight"][0])  # tells objects apart
    assert back[f"{proposals}.bias"][1] == -1e4  # a person's row, which the encoder's proposals do not use


def test_custom_classes_keep_their_rows(whole):
    state = state_of("detr") | {"class_embed.weight": torch.randn(6, 32), "class_embed.bias": torch.randn(6)}
    classes = DETR.classes(state, {})["detection"]
    assert [(one.name, one.file_id) for one in classes] == [(f"class {i}", i) for i in range(5)]
    whole(state, DETR, thirds=THIRDS)
    back, _ = translate_back(translate(state, DETR).tensors, DETR)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_classes_other_than_coco_s_of_as_many_rows_are_refused():
    from torchvision.models._meta import _COCO_CATEGORIES as NAMES_BY_ID

    def state(rows, prefix=""):
        return {f"{prefix}class_labels_classifier.bias": torch.zeros(rows)}

    classes = find("transformers-detr").classes
    assert len(classes(state(92), {})["detection"]) == 80
    names = [*NAMES_BY_ID]
    names[17] = "lynx"
    with pytest.raises(WeightsError, match="Class 17 of 91 is called 'lynx', in COCO 'cat'"):
        classes(state(92), {"classes": names})

    classes = find("transformers-detr-panoptic").classes
    names = [f"LABEL_{i}" for i in range(250)]
    for metadata in ({}, {"classes": names}):
        assert len(classes(state(251, "detr."), metadata)["panoptic"]) == 133
    names[187] = "heaven"
    with pytest.raises(WeightsError, match="Class 187 of 250 is called 'heaven', in COCO panoptic 'sky-other-merged'"):
        classes(state(251, "detr."), {"classes": names})
    assert classes(state(92, "detr."), {})["panoptic"] == coco_classes()  # instance segmentation
    other = classes(state(4, "detr."), {"classes": ["cat", "sky", "road"]})["panoptic"]
    assert [(one.name, one.file_id) for one in other] == [("cat", 0), ("sky", 1), ("road", 2)]


# ---- other tensors ----


def test_tensors_of_other_models_are_unknown_and_counts_of_operations_are_left_out():
    state = state_of("detr")
    assert translate(state | {"mask_head.lay1.weight": torch.zeros(8, 8, 3, 3)}, DETR).unknown == [
        "mask_head.lay1.weight"
    ]
    state, key = state_of("deformable-detr-refined"), "transformer.decoder.bbox_embed.1.layers.0.weight"
    assert translate(state | {key: state[key] + 1}, DEFORMABLE_DETR).unknown == [key]  # a copy that differs
    counts = {"transformer.total_ops": torch.zeros(1), "class_embed.0.total_params": torch.zeros(1)}
    assert translate(state | counts, DEFORMABLE_DETR).unknown == []
