"""The panoptic DETR head: losses, merging, freezing, and the start from a trained detector."""

from typing import Any

import pytest
import torch
from torch import Tensor

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_heads.detr.panoptic import DetrPanoptic
from densevit_heads.parts.panoptic.merging import panoptic_map

DETR: dict[str, Any] = {"num_queries": 6, "transformer": Transformer(32, 2, 1, 2, 32)}
CLASSES = [Class(name, i, (0, 0, 0), thing=i < 2) for i, name in enumerate(("cat", "dog", "sky", "grass"))]
CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)


# ---- losses ----


# ---- merging ----

THINGS = torch.tensor([one.thing for one in CLASSES])


def merged(logits: list[list[list[float]]], labels: list[int], original: tuple[int, int] | None = None) -> Tensor:
    x = torch.tensor(logits, dtype=torch.float32).reshape(len(labels), -1, len(logits[0][0]) if logits else 1)
    size = (x.shape[1], x.shape[2])
    labels = torch.tensor(labels, dtype=torch.long)
    return panoptic_map(x, labels, torch.ones_like(labels) > 0, THINGS, size, size, original or size)


def rows(*values: float) -> list[list[float]]:
    """A mask of 6 columns whose rows have these logits."""
    return [[value] * 6 for value in values]


def test_each_pixel_gets_the_highest_mask_and_segments_of_one_stuff_class_become_one() -> None:
    """As in the authors' code, what was merged has no area left, and its mask is removed before pixels are assigned
    again: the last row goes to the thing, whose logit there is above that of the remaining sky."""
    for logits, labels, expected in (
        ([rows(5, 1, 1, 0), rows(1, 4, 1, 0), rows(0, 0, 3, 9)], [1, 1, 3], [1000, 1001, 3000, 3000]),
        ([rows(5, 0, 0), rows(0, 4, 0), rows(1, 1, 3)], [2, 0, 2], [2000, 0, 2000]),
        ([rows(5, 0, -1), rows(0, 4, 0), rows(1, 1, 3)], [2, 0, 2], [2000, 0, 0]),
        ([rows(5, 0, -1), rows(0, 4, 0), rows(1, 1, 3)], [0, 1, 0], [0, 1000, 1]),
    ):
        found = merged(logits, labels)
        assert found.dtype == torch.int32
        assert found[:, 0].tolist() == expected and (found == found[:, :1]).all()


def test_masks_are_upsampled_to_the_batch_cropped_and_resized_to_the_file() -> None:
    """Masks of 4 x 8 cells, a batch of 16 x 32 whose right half is padding, and a file of 8 x 8."""
    head = DetrPanoptic(CHANNELS, STRIDES, CLASSES, detr={**DETR, "num_queries": 3})
    masks = torch.full((1, 3, 4, 8), -5.0)
    masks[0, 0, :, :2], masks[0, 1, :, 2:4], masks[0, 2, :, 4:] = 5, 5, 5
    logits = torch.tensor([[[9.0, 0, 0, 0, 0], [0, 0, 9, 0, 0], [0, 9, 0, 0, 9.1]]])
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1], [0.5, 0.5, 0.2, 0.2]]])
    outputs = {"logits": logits, "boxes": boxes, "masks": masks, "padded_size": (16, 32)}
    [found] = head.predict(outputs, [{"size": (16, 16), "original_size": (8, 8)}])
    assert found["panoptic"][0].tolist() == [0] * 4 + [2000] * 4  # the third query is most probably no object
    assert found["labels"].tolist() == [0, 1]  # things, by score; the sky is none
    assert found["scores"].tolist() == pytest.approx([0.9995, 0.475], abs=1e-3)
    assert found["boxes"][0].tolist() == [0, 0, 4, 8]
    assert found["masks"][0, 3].tolist() == [True] * 4 + [False] * 4
    assert not found["masks"][1].any()  # in the padding only


# ---- freezing ----


# ---- a trained detector ----
