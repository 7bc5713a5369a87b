"""Features of magnitude 100 in half precision, and maps of one cell, whose group norms have one value per group."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import densevit
from densevit.interfaces import Class
from tests.heads.cases import CASES

CHANNELS, STRIDES, SIDE = (16, 32, 64, 64), (4, 8, 16, 32), 64
NAMES = (
    "ddq", "dino", "dfine", "one_stage", "detr_panoptic", "mask2former", "kmax_deeplab", "perceiver_io", "segformer",
    "segmenter", "upernet", "setr, mla", "dpt, bins",
)  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("name", NAMES)
def test_outputs_on_large_features_are_finite_and_close(name: str) -> None:
    case = CASES[name]
    classes = [Class(str(i), i, (i, i, i), i < 2) for i in range(4)] if case.head != "dpt" else ()
    head = densevit.create_head(case.head, CHANNELS, STRIDES, classes, **case.options).eval()
    features = [100 * torch.randn(2, c, SIDE // s, SIDE // s).abs() for c, s in zip(CHANNELS, STRIDES, strict=True)]
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        expected = head(features, padding)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                found = head(features, padding)
            assert "boxes" not in found or found["boxes"].dtype == torch.float32
            for key, value in expected.items():
                for own, other in zip(tensors(found[key]), tensors(value), strict=True):
                    assert own.isfinite().all() == other.isfinite().all(), key
            if head.task == "segmentation" and "logits" in expected and expected["logits"].dim() == 4:
                difference = (found["logits"].float() - expected["logits"]).norm() / expected["logits"].norm()
                assert difference < 0.1


def tensors(values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]


NORMS = {
    "deformable_detr": {},
    "mask2former": {},
    "detr_panoptic": {},
    "setr, naive": {"norm": "group"},
    "dpt": {"norm": "group"},
}


@pytest.mark.parametrize("name", NORMS)
def test_one_image_of_single_cells_has_the_outputs_that_it_has_in_a_batch(name):
    """Group norm is of each image, so torch's layer, which refuses the single image, is the reference in a batch.

    In double precision: the norm of equal values amplifies rounding by 300.
    """
    case = CASES[name]
    classes = () if name == "dpt" else (Class("a", 1, (0, 0, 0)), Class("b", 2, (9, 9, 9)))
    head = densevit.create_head(case.head, (8, 8), (16, 32), classes, **{**case.options, **NORMS[name]}).double().eval()
    features = [torch.randn(1, 8, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)

    def floats(outputs):
        return {key: x for key, x in outputs.items() if isinstance(x, torch.Tensor) and x.is_floating_point()}

    alone = floats(head(features, mask))
    twice = floats(head([torch.cat([x, x]) for x in features], mask.expand(2, -1, -1)))
    assert alone
    for key, value in alone.items():
        [images] = [dim for dim, count in enumerate(value.shape) if twice[key].shape[dim] == 2 * count]
        torch.testing.assert_close(value, twice[key].narrow(images, 0, 1), rtol=1e-4, atol=1e-4)
    sum(value.square().sum() for value in alone.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
