"""Instance masks stay run lengths on the way to the heads."""

from typing import Any

import numpy as np
import torch

import densevit
from densevit.targets import RunLengthMasks

CLASSES = [densevit.Class(name, n + 1, (9, 9, 9)) for n, name in enumerate("abc")]
HEADS: dict[str, Any] = {"s": {"name": "setr"}}


def test_masks_are_not_filled_on_the_device():
    model = densevit.create_model({"name": "resnet", "depth": 18}, heads=HEADS, classes={"s": CLASSES})
    masks = RunLengthMasks.from_dense(np.eye(32, dtype=bool)[None], (32, 32))
    target = {"masks": masks, "labels": torch.arange(1), "size": (32, 32)}
    batch = {"images": torch.zeros(1, 3, 32, 32), "padding_mask": torch.zeros(1, 32, 32), "targets": [target]}
    moved = densevit.DenseModule(model).transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["targets"][0]["masks"] is masks and moved["targets"][0]["labels"].device.type == "meta"
