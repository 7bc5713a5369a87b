"""Losses and matching of half-precision predictions are computed in fp32, also under autocast."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from densevit.losses import depth, relative_depth
from densevit.losses.classification import focal
from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects, hungarian, matching_costs
from densevit.losses.segmentation import cross_entropy, dice
from densevit.losses.set_losses import set_losses, softmax_set_losses

L, B, Q, K = 2, 3, 20, 3
OBJECTS = Objects(
    0.2 + 0.5 * torch.rand(4, 4), torch.tensor([2, 0, 1, 1]), torch.tensor([0, 0, 0, 2]), [3, 0, 1], [0, 1, 2]
)
LABELS, CENTRES, METRES = torch.randint(K, (B, Q)), torch.rand(B, Q, 2), torch.rand(B, Q, 4)
CONTEXT = LossContext()
CASES: dict[str, Callable[[Tensor, Tensor], object]] = {  # of logits (L, B, Q, K + 1) and boxes
    "costs": lambda x, y: (matching_costs(x, y, OBJECTS), matching_costs(x, y, OBJECTS, softmax=False)),
    "focal": lambda x, _: focal(x, (x > 0).float()),
    "assignment": lambda x, y: tuple(hungarian(x, y, OBJECTS)),
    "softmax": lambda x, y: tuple(softmax_set_losses(x, y, OBJECTS, hungarian(x, y, OBJECTS), CONTEXT, 0.1)),
    "mal": lambda x, y: tuple(set_losses(x, y, OBJECTS, hungarian(x, y, OBJECTS), CONTEXT, "mal")),
    "dense": lambda x, y: tuple(dense_detection(x[0], y[0], CENTRES, CENTRES[..., 0] > 0.9, OBJECTS, CONTEXT)),
    "maps": lambda x, _: (
        cross_entropy(x[0].mT[..., None], LABELS[..., None], CONTEXT, torch.tensor([1.0, 0.2, 3.0, 0.0])),
        dice(x[0].mT[..., None], LABELS[..., None], CONTEXT),
    ),
    "depth": lambda _, y: (depth.l1(y[0], METRES), depth.silog(y[0], METRES)),
    "relative depth": lambda _, y: (
        relative_depth.scale_and_shift_invariant(y[0], METRES),
        relative_depth.gradient_matching(*relative_depth.robust_error(y[0], METRES)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_change_nothing(case: str, dtype: torch.dtype) -> None:
    logits, boxes = 2 * torch.randn(L, B, Q, K + 1), 0.05 + 0.9 * torch.rand(L, B, Q, 4)
    low = logits.to(dtype), boxes.to(dtype)
    expected = CASES[case](*(x.float() for x in low))
    with torch.autocast("cpu", dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype, "autocast should be on here"
        torch.testing.assert_close(CASES[case](*low), expected, rtol=0, atol=0)
