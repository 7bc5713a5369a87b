"""torch.compile of a model in training: batches of new sizes do not compile again."""

import pytest
import torch

import densevit
from densevit.interfaces import Class
from densevit.model import DenseModel

TRANSFORMER = {"width": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feedforward": 16}
SMALL = {"num_queries": 5, "transformer": TRANSFORMER}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "backbone_options", "head", "options"),
    [
        ("swin", {"variant": "nano", "window_size": 4}, "detr", SMALL),
        ("vit", {"variant": "nano", "patch_size": 16, "features": (1, 2)}, "setr", {"width": 16}),
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
