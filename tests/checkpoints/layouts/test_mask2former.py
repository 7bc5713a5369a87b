"""Mask2Former computes what its authors' code does, as recorded in `originals`; its classes."""

import pytest
import torch

from densevit.layouts import coco_panoptic_classes, find
from densevit.set_prediction.queries import MaskQueries, mask_logits
from densevit_backbones.swin.variants import VARIANTS, Variant
from densevit_checkpoints.recognition import recognise
from tests.checkpoints.layouts.originals.weights import MASK2FORMER_SIZES, mask2former_batch, random_mask2former
from tests.checkpoints.layouts.recordings import recorded
from tests.checkpoints.layouts.translations import whole

pytestmark = pytest.mark.integration


@pytest.mark.parity("mask2former", "mask2former-resnet")
@pytest.mark.parametrize("original", ["mask2former", "mask2former-resnet"])
@torch.no_grad()
def test_a_padded_batch_has_the_original_s_logits_and_masks(original, variant):
    variant(VARIANTS, "nano", Variant(8, (2, 2, 2, 2), (1, 2, 2, 4), 0.0))
    shapes, expected = recorded(original)
    state = random_mask2former(shapes)
    assert recognise(state).name == original
    model = whole(state, find(original), thirds="in_proj_")
    images = mask2former_batch()
    padding_mask = torch.ones(len(images), *images.shape[2:], dtype=torch.bool)
    for mask, (h, w) in zip(padding_mask, MASK2FORMER_SIZES, strict=True):
        mask[:h, :w] = False
    outputs = model.heads["panoptic"](model.backbone(images), padding_mask)
    states = MaskQueries(*outputs["layers"])
    for name, layer in (("last", -1), ("first", 0)):
        logits, masks = expected[f"{name}.logits"], expected[f"{name}.masks"]
        assert logits.std(1).mean() > 0.1 and masks.std() > 0.1
        torch.testing.assert_close(states.logits[layer], logits, atol=1e-4, rtol=1e-4)
        found = mask_logits(states.embeddings[layer], outputs["pixels"])[..., ::3, ::3]
        torch.testing.assert_close(found, masks, atol=1e-4, rtol=1e-4)


def test_a_model_of_80_classes_is_recognised_as_one_of_cocos_instances():
    head = "sem_seg_head.predictor.class_embed.bias"
    signature_keys = [key.replace("{i}", "0") for key in find("mask2former").signature_keys]
    for rows, name in ((134, "mask2former"), (81, "mask2former-instance"), (151, "mask2former")):
        assert recognise({key: torch.zeros(1) for key in signature_keys} | {head: torch.zeros(rows)}).name == name


def test_classes_by_their_number():
    layout = find("mask2former")
    row = "sem_seg_head.predictor.class_embed.bias"
    coco = layout.classes({row: torch.zeros(134)}, {})["panoptic"]
    assert coco == coco_panoptic_classes() and len(coco) == 133
    assert (coco[79].name, coco[80].name, coco[132].file_id, coco[132].thing) == ("toothbrush", "banner", 200, False)
    things = find("mask2former-instance").classes({row: torch.zeros(81)}, {})["detection"]
    assert [one.file_id for one in things] == [one.file_id for one in coco[:80]]
    assert len(find("mask2former-semantic").classes({row: torch.zeros(151)}, {})["segmentation"]) == 150

    ade = layout.classes({row: torch.zeros(151)}, {})["panoptic"]  # register_ade20k_panoptic.py
    assert [(one.name, one.file_id, one.thing) for one in ade[6:9]] == [
        ("road", 6, False), ("bed", 7, True), ("window", 8, True)
    ]  # fmt: skip
    assert sum(one.thing for one in ade) == 100
    things = find("mask2former-instance").classes({row: torch.zeros(101)}, {})["detection"]
    assert things == tuple(one for one in ade if one.thing)
    city = layout.classes({row: torch.zeros(20)}, {})["panoptic"]
    assert [one.name for one in city if one.thing] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
    ]  # fmt: skip
    assert [(one.name, one.file_id) for one in city[:2]] == [("road", 7), ("sidewalk", 8)]
    own = layout.classes({row: torch.zeros(20)}, {"classes": [f"part {i}" for i in range(19)]})["panoptic"]
    assert [one.name for one in own[:2]] == ["part 0", "part 1"] and own[0].thing
