"""A batch of one small image, whose coarsest maps have one cell: group norms of one value per group."""

import pytest
import torch

import densevit
from densevit.interfaces import Class
from tests.heads.cases import CASES

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
