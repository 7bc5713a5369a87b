"""A batch of one small image, whose coarsest maps have one cell: group norms of one value per group."""

import functools

import pytest
import torch

from densevit.interfaces import Class
from densevit.set_prediction.transformer import Transformer
from densevit_heads.deformable_detr.head import DeformableDetr
from densevit_heads.detr_panoptic.head import DetrPanoptic
from densevit_heads.dpt.depth import DptDepth
from densevit_heads.mask2former.head import Mask2Former
from densevit_heads.mask2former.options import MaskTransformer, PixelDecoderOptions
from densevit_heads.setr.head import Setr

CLASSES = (Class("a", 1, (0, 0, 0)), Class("b", 2, (9, 9, 9)))
LAYERS = Transformer(32, 4, 1, 1)
HEADS = {
    "deformable_detr": functools.partial(DeformableDetr, num_queries=5, transformer=LAYERS),
    "mask2former": functools.partial(
        Mask2Former, num_queries=5, transformer=MaskTransformer(32, 4, 1), pixel_decoder=PixelDecoderOptions(1)
    ),
    "detr_panoptic": functools.partial(DetrPanoptic, detr={"num_queries": 5, "transformer": Transformer(64, 4, 1, 1)}),
    "setr": functools.partial(Setr, width=32, norm="group"),
    "dpt": functools.partial(DptDepth, width=32, norm="group"),
}


@pytest.mark.parametrize("name", HEADS)
def test_one_image_of_single_cells_has_the_outputs_that_it_has_in_a_batch(name):
    """Group norm is of each image, so torch's layer, which refuses the single image, is the reference in a batch.

    In double precision: the norm of equal values amplifies rounding by 300.
    """
    torch.manual_seed(0)
    head = HEADS[name]((8, 8), (16, 32), () if name == "dpt" else CLASSES).double().eval()
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
