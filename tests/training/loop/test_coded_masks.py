"""Instance masks stay run-length coded in training where all heads take them."""

from typing import Any

import numpy as np
import pytest
import torch

import densevit
from densevit.targets import RunLengthMasks

CLASSES = [densevit.Class(name, n + 1, (9, 9, 9)) for n, name in enumerate("abc")]
MASK2FORMER = {
    "name": "mask2former_instance", "num_queries": 8, "transformer": {"width": 32}, "pixel_decoder": {"layers": 1}
}  # fmt: skip
SETR: dict[str, Any] = {"name": "setr"}


@pytest.mark.parametrize(
    ("heads", "kind"),
    [({"instance": MASK2FORMER}, RunLengthMasks), ({"instance": MASK2FORMER, "s": SETR}, torch.Tensor)],
)
def test_masks_are_filled_only_for_heads_that_need_pixels(heads, kind):
    classes = {name: CLASSES for name in heads}
    model = densevit.create_model({"name": "resnet", "depth": 18}, heads=heads, classes=classes)
    masks = np.zeros((2, 32, 32), bool)
    masks[0, :9], masks[1, 9:, 4:7] = True, True
    target = {"masks": RunLengthMasks.from_dense(masks, (32, 32)), "labels": torch.arange(2), "size": (32, 32)}
    batch = {"images": torch.zeros(1, 3, 32, 32), "padding_mask": torch.zeros(1, 32, 32), "targets": [target]}
    moved = densevit.DenseModule(model).transfer_batch_to_device(batch, torch.device("cpu"), 0)
    found = moved["targets"][0]["masks"]
    assert isinstance(found, kind)
    np.testing.assert_array_equal(np.asarray(found), masks)
