"""torch.compile: features and gradients of each family match eager mode; batches of new sizes do not compile again."""

import pytest
import torch

import densevit
from densevit.interfaces import Class
from densevit.model import DenseModel

FAMILIES = [
    ("vit", {"variant": "nano", "patch_size": 16, "features": (1, 2)}),
    ("swin", {"variant": "nano", "window_size": 4}),
    ("swin", {"variant": "nano", "window_size": 4, "version": 2}),
    ("mit", {"variant": "b0"}),
    ("mvit", {"variant": "nano"}),
    ("resnet", {"depth": 18}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), FAMILIES, ids=str)
def test_compiled_backbone_matches_eager(name, options):
    backbone = densevit.create_backbone(name, **options).eval()
    compiled = torch.compile(backbone, fullgraph=True)
    found, expected = (torch.randn(2, 3, 67, 90).requires_grad_() for _ in range(2))
    expected.data.copy_(found.data)
    for x, y in zip(compiled(found), backbone(expected), strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
        weight = torch.randn_like(x)
        (x * weight).mean().backward(retain_graph=True)
        (y * weight).mean().backward(retain_graph=True)
    scale = 1 / expected.grad.abs().max()
    torch.testing.assert_close(found.grad * scale, expected.grad * scale, atol=1e-3, rtol=1e-3)


TRANSFORMER = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}
SMALL = {"num_queries": 5, "transformer": TRANSFORMER}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "backbone_options", "head", "options"),
    [
        ("resnet", {"depth": 18, "norm": "frozen"}, "detr", SMALL),
        ("swin", {"variant": "nano", "window_size": 4}, "detr", SMALL),
        ("vit", {"variant": "nano", "patch_size": 16, "features": (1, 2)}, "setr", {"width": 16}),
        ("swin", {"variant": "nano", "window_size": 4}, "dpt", {"width": 16}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_batches_of_ten_sizes_compile_twice(backbone, backbone_options, head, options):
    """The second size is compiled for variable sizes, also where windows need padding for some sizes only."""
    from torch._dynamo.testing import CompileCounter

    plugin = densevit.create_backbone(backbone, **backbone_options)
    classes = () if head == "dpt" else [Class("a", 1, (0, 0, 0)), Class("b", 2, (0, 0, 0))]
    model = DenseModel(plugin, {"a": densevit.create_head(head, plugin.channels, plugin.strides, classes, **options)})
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model.train(), backend=counter)  # compiles nothing to machine code
    for i in range(10):
        height, width = 160 + 32 * (i % 4), 160 + 32 * (i * 3 % 5)
        padding = torch.zeros(2, height, width, dtype=torch.bool)
        targets = [{"boxes": torch.rand(i % 3, 4), "labels": torch.zeros(i % 3), "size": (height, width)}] * 2
        compiled({"images": padding[:, None].expand(-1, 3, -1, -1).byte(), "padding_mask": padding, "targets": targets})
    assert counter.frame_count == 2
