"""Boxes below one pixel and of extreme aspect ratios in the training transform."""

from typing import Any

import numpy as np
import pytest
import torch

from densevit.config import DataSection
from densevit.data.build import build_transforms


@pytest.mark.parametrize("keys", [{"transforms": {"name": "lsj", "scales": (1, 1)}}, {"transforms": "resize"}])
def test_small_and_narrow_boxes_are_kept(keys):
    """Resized to a tenth: 0.5 x 0.4 and 800 x 8 pixels, and 0.005 x 10, which is below 0.001 pixels then."""
    sample: Any = {
        "image": torch.zeros((3, 1000, 1000), dtype=torch.uint8),
        "targets": {
            "boxes": torch.tensor([[500, 500, 500.5, 500.4], [100, 400, 900, 408], [10, 10, 10.005, 20]]),
            "labels": torch.tensor([0, 1, 2]),
            "image_id": 1,
        },
    }
    train, _ = build_transforms(DataSection(name="scenes", image_size=100, **keys))
    targets = train(sample, np.random.default_rng(0))["targets"]
    assert targets["labels"].tolist() == ([0, 1, 2] if keys["transforms"] == "resize" else [0, 1])
    sides = (targets["boxes"][:, 2:] - targets["boxes"][:, :2])[:2]
    torch.testing.assert_close(sides, torch.tensor([[0.05, 0.04], [80.0, 0.8]]), atol=1e-4, rtol=0)
