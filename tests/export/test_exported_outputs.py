"""Heads make the predictions of `predict` from the outputs of files, and files are compared with `predict`."""

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.interfaces import LABEL_DIVISOR, VOID
from densevit_export import exported_outputs
from densevit_heads.parts.panoptic import merging
from tests.export.test_exporting import CLASSES, HEADS
from tests.export.test_postprocessing import ALL, TARGET, predictor_of
from tests.small_models import FOUR_MAPS, drawn_outputs, small_predictor, without_zeros

BOXES, MASKS = {"boxes", "labels", "scores"}, {"boxes", "labels", "masks", "scores"}
KEYS = {
    "detr": BOXES,
    "one-stage": BOXES,
    "mask2former": {"panoptic", "semantic", *MASKS},
    "setr": {"semantic"},
    "dpt": {"depth"},
}


@pytest.mark.parametrize("head", KEYS)
def test_predictions_from_outputs_are_those_of_predict(head: str):
    predictor = without_zeros(small_predictor(HEADS[head], None if HEADS[head]["name"] == "dpt" else CLASSES))
    module, outputs = predictor.heads["x"], drawn_outputs(predictor)
    original = (120, 171)
    target = {"size": (75, 107), "original_size": original}
    with torch.no_grad():
        [expected], exported = module.predict(outputs, [target]), exported_outputs.exported(module, outputs, (75, 107))
    [found] = exported_outputs.predict_exported(module, exported, [target])
    assert expected.keys() == found.keys() == KEYS[head]
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape
        if value.dtype.is_floating_point:
            scale = max(original) if key == "boxes" else max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[key] / scale, value / scale, rtol=0, atol=1e-4)
        elif key in ("masks", "semantic", "panoptic"):  # pixels whose values are equal but for rounding
            assert (found[key] != value).float().mean() < 1e-3 and len(value.unique()) > 1
        else:
            assert torch.equal(found[key], value)


@pytest.mark.integration
@pytest.mark.parametrize("head", ALL)
def test_boxes_that_leave_the_image_are_clipped_in_predictions_and_files(head: str):
    predictor = predictor_of(head, FOUR_MAPS)
    module, outputs = predictor.heads["x"], drawn_outputs(predictor)
    (h, w), (H, W) = TARGET.values()
    if "boxes" not in exported_outputs.exported(module, outputs, (h, w)):
        pytest.skip("no boxes in its file")
    if "distances" in outputs:
        outputs["distances"] = outputs["distances"].abs() + 9
    else:
        outputs["boxes"][..., 2:] += 0.5
    exported = exported_outputs.exported(module, outputs, (h, w), (H, W))
    with torch.no_grad():
        [predictions] = module.predict(outputs, [TARGET])
    if "distances" in outputs:
        raw = module.fcos.box_coder.decode(outputs["distances"][0], outputs["anchors"]) / torch.tensor([w, h, w, h])
    else:
        cx, cy, width, height = outputs["boxes"][0].unbind(-1)
        raw = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], 1)
    assert (raw < 0).any(0)[:2].all() and (raw > 1).any(0)[2:].all()
    clipped = np.clip(raw.numpy(), 0, 1) * np.array([W, H, W, H])
    np.testing.assert_allclose(exported["boxes"][0], clipped, rtol=0, atol=1e-3)
    distances = np.abs(predictions["boxes"].numpy()[:, None] - clipped).max(-1)  # (N, Q)
    assert len(distances) and distances.min(1).max() < 1e-3


# ---- merging, against loops ----


def merged_by_a_loop(logits: Tensor, labels: Tensor, things: Tensor) -> Tensor:
    """`PostProcessPanoptic` of facebookresearch/detr, mask by mask, at the size of the masks."""
    names = labels.tolist()
    while names:
        first = [i if things[name] else names.index(name) for i, name in enumerate(names)]
        owner = torch.tensor(first)[logits.argmax(0)]
        large = [int((owner == i).sum()) > merging.SMALLEST for i in range(len(names))]
        if all(large):
            ids = [name * LABEL_DIVISOR + names[:i].count(name) for i, name in enumerate(names)]
            return torch.tensor(ids, dtype=torch.int32)[owner]
        logits = logits[torch.tensor(large)]
        names = [name for name, keep in zip(names, large, strict=True) if keep]
    return torch.full(logits.shape[1:], VOID, dtype=torch.int32)


def test_masks_are_merged_as_by_detrs_loop():
    things, size = torch.tensor([True, False, True]), (9, 12)
    for count in range(12):
        drawn = torch.Generator().manual_seed(count)
        logits = torch.randn(count, *size, generator=drawn) + 2 * torch.randn(count, 1, 1, generator=drawn)
        labels, competes = torch.randint(3, (count,), generator=drawn), torch.rand(count, generator=drawn) > 0.3
        found = merging.panoptic_map(logits, labels, competes, things, size, size, size)
        expected = merged_by_a_loop(logits[competes], labels[competes], things)
        nothing = torch.full(size, VOID, dtype=torch.int32)
        assert torch.equal(found, expected.expand(size) if competes.any() else nothing), count


# ---- the comparison ----
