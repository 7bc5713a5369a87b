"""The predictions that heads make from the outputs of an exported file are those of `predict`."""

import pytest
import torch

from densevit.model import exported_outputs
from tests.exporting.small_models import drawn_outputs, small_predictor, without_zeros
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
            assert (found[key] != value).float().mean() < 1e-3
            assert len(value.unique()) > 1
        else:
            assert torch.equal(found[key], value)
