"""Compilation by regions: which modules are compiled, and how often."""

import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from densevit.layers.mlp import FeedForward
from densevit.model.compiling import compile_regions, repeated


class Layer(nn.Module):
    """A norm in a list, and two matrices."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width)])
        self.ffn = FeedForward(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norms[0](x))


def test_only_repeated_blocks_without_convolutions_are_compiled() -> None:
    convolutions = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)) for _ in range(2)]
    blocks = [Layer(4), Layer(8), Layer(4), *convolutions]
    assert repeated(blocks) == [blocks[0], blocks[2]]
    compile_regions([nn.ModuleList(blocks)], backend="eager")
    assert [block._compiled_call_impl is not None for block in blocks] == [True, False, True, False, False]


def test_equal_sides_and_other_sizes_need_one_compilation() -> None:
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    stage = nn.Sequential(Layer(), Layer())
    compile_regions([stage], backend=backend)
    for size in ((2, 6, 6), (3, 7, 5), (5, 4, 4), (2, 9, 8)):
        stage(torch.ones(*size, 4, requires_grad=True))
    assert backend.frame_count == 1


def test_a_compilation_of_the_model_has_its_regions_in_one_graph() -> None:
    torch._dynamo.reset()
    stage, backend = nn.Sequential(Layer(), Layer()), CompileCounterWithBackend("eager")
    compile_regions([stage], backend="eager")
    torch.compile(stage, backend=backend, fullgraph=True)(torch.ones(2, 3, 4))
    assert backend.frame_count == 1
