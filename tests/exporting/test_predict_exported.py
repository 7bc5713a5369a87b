"""The predictions that heads make from the outputs of an exported file are those of `predict`."""

from typing import Any

import pytest
import torch

from densevit.model import exported_outputs
from tests.exporting.small_models import small_predictor
from tests.exporting.test_exporting import CLASSES, HEADS

BOXES, MASKS = {"boxes", "labels", "scores"}, {"boxes", "labels", "masks", "scores"}
KEYS = {
    "detr": BOXES,
    "detr-distinct": BOXES,
    "one-stage": BOXES,
    "detr-panoptic": {"panoptic", *MASKS},
    "mask2former": {"panoptic", "semantic", *MASKS},
    "mask2former-instance": MASKS,
    "setr": {"semantic"},
    "dpt": {"depth"},
}


def head_and_outputs(head: str) -> tuple[Any, dict[str, Any]]:
    """A head and its outputs for an image of 75 x 107 pixels with padding, whose classes and masks are random."""
    predictor = small_predictor(HEADS[head], None if HEADS[head]["name"] == "dpt" else CLASSES)
    for parameter in predictor.parameters():
        if not parameter.any():  # such as the last layer of boxes
            torch.nn.init.normal_(parameter.data, std=0.02)
    multiple, generator = predictor.model.multiple, torch.Generator().manual_seed(0)
    height, width = (-(-side // multiple) * multiple for side in (75, 107))
    mask = torch.ones(1, height, width, dtype=torch.bool)
    mask[:, :75, :107] = False
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    with torch.no_grad():
        outputs = predictor.model.eval()({"images": images, "padding_mask": mask, "targets": []})["x"]
    drawn = {
        key: 4 * torch.randn(outputs[key].shape, generator=generator) for key in ("logits", "masks") if key in outputs
    }
    if "depth" in outputs:
        drawn["depth"] = outputs["depth"] * torch.rand(outputs["depth"].shape, generator=generator)
    if "boxes" in outputs:
        drawn["boxes"] = torch.rand(outputs["boxes"].shape, generator=generator)
    return predictor.heads["x"], {**outputs, **drawn}


@pytest.mark.parametrize("head", KEYS)
def test_predictions_from_outputs_are_those_of_predict(head: str):
    module, outputs = head_and_outputs(head)
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
            assert (found[key] != value).float().mean() < 1e-3
            assert len(value.unique()) > 1
        else:
            assert torch.equal(found[key], value)
