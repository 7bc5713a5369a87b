"""The RT-DETR head beyond the contract of all heads: padded images, look forward twice, limits and merged blocks."""

from typing import Any

import pytest
import torch
from torch import nn

from densevit.interfaces import Class
from densevit.losses.context import LossContext
from densevit.set_prediction.transformer import Transformer
from densevit_heads.rtdetr import RtDetr
from densevit_heads.rtdetr.convolutions import RepVggBlock
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoderOptions
from tests.heads.padded_batch import SIZES, padded_batch, perturbed, step

CLASSES = [Class(name, i, (0, 0, 0)) for i, name in enumerate("abcd")]
SMALL = {
    "num_queries": 7,
    "encoder": HybridEncoderOptions(16, 24, 0.5),
    "transformer": Transformer(32, 2, 1, 3, 24, 0.0),
    "contrastive_denoising": 10,
}


def make_head(**options: Any) -> Any:
    return perturbed(RtDetr((6, 10), (8, 16), CLASSES, **SMALL | options))


def make_batch(*counts: int, sizes: Any = SIZES) -> Any:
    return padded_batch(counts, ((6, 8), (10, 16)), sizes, len(CLASSES))


def test_boxes_are_relative_to_the_image_without_padding():
    """Cells of padding are selected last, and the initial boxes are centred on cells of the image."""
    head = make_head(num_queries=4 * 5 + 2 * 3 + 2 * 2).eval()  # the cells of the second image
    nn.init.zeros_(head.queries.box_head.last.weight)
    nn.init.zeros_(head.queries.box_head.last.bias)
    features, mask, _ = make_batch(1, 1, sizes=[(48, 64), (32, 40)])
    boxes = head(features, mask)["proposals"][1][1]
    inside = boxes[(boxes < 1).all(-1)]
    assert len(inside) == len(boxes)
    for level, (rows, columns) in enumerate([(4, 5), (2, 3), (2, 2)]):
        of_level = inside[(inside[:, 2] - 0.05 * 2**level).abs() < 1e-4]
        assert len(of_level) == rows * columns
        assert of_level[:, :2].max() < 1.0


def test_a_layer_learns_from_the_boxes_of_the_next():
    """Look forward twice: the box of a layer moves with the offsets of the layer before, but not with earlier ones."""
    head = make_head(contrastive_denoising=0).train()
    features, mask, _ = make_batch(1)
    boxes = head(features, mask)["layers"][1]
    gradients = torch.autograd.grad(boxes[2].sum(), [layer.last.weight for layer in head.box_heads])
    assert [bool(gradient.any()) for gradient in gradients] == [False, True, True]


@pytest.mark.integration
def test_compiled_training_gives_the_same_loss():
    options = {"contrastive_denoising": 0, "transformer": Transformer(32, 2, 1, 1, 24, 0.0), "num_levels": 2}
    losses = []
    features, mask, targets = make_batch(3, 0, 5)
    for compiled in (False, True):
        torch.manual_seed(0)
        head = make_head(**options).train()
        forward = torch.compile(head, backend="eager") if compiled else head
        losses.append(head.loss(forward(features, mask), targets, LossContext()))
    torch.testing.assert_close(*losses)


def test_maps_of_one_cell_train():
    for size in ((1, 1), (9, 70)):
        head = make_head(num_queries=90).train()
        features, mask, targets = make_batch(1, 1, sizes=[size, size])
        for target in targets:
            target["boxes"] = torch.tensor([[0.0, 0.0, size[1], size[0]]])
        outputs, _ = step(head, features, mask, targets)
        assert len(head.eval().predict(outputs, targets)[0]["boxes"]) == outputs["boxes"].shape[1]


def randomised(module: nn.Module) -> nn.Module:
    """All parameters and statistics random, norms away from their initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.abs_().add_(0.1)
    return module.eval()


@pytest.mark.parametrize("width", [1, 7, 16])
def test_a_merged_block_is_one_convolution_with_equal_outputs(width: int):
    block = randomised(RepVggBlock(width))
    x = torch.randn(2, width, 9, 6)
    merged = block.merged()
    torch.testing.assert_close(merged(x), block(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in merged.parameters()) == 9 * width**2 + width
    assert [type(m) for m in merged.modules() if not isinstance(m, nn.Sequential)] == [nn.Conv2d, nn.SiLU]
