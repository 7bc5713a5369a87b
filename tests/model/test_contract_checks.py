"""What backbones and necks claim, their channels, strides and levels, against the features that they return."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.errors import PluginError
from densevit.interfaces import ModuleBackbone, Neck
from densevit.model import DenseModel
from densevit.model.contract_checks import check_features
from tests.small_models import FourMaps, StandIn


class Claims(FourMaps):
    """Maps of strides 4, 8, 16 and 32, with other claims; from the second size on every `later`-th cell of them."""

    def __init__(self, later: int = 1, **claimed: tuple[int, ...]) -> None:
        super().__init__()
        self.later, self.sizes = later, set[Any]()
        for name, values in claimed.items():
            setattr(self, name, values)

    def forward(self, images: Tensor) -> list[Tensor]:
        self.sizes.add(images.shape[2:])
        step = self.later if len(self.sizes) > 1 else 1
        return [x[..., ::step, ::step] for x in super().forward(images)]


def run(backbone: densevit.Backbone, height: int, width: int, **necks: Neck) -> None:
    DenseModel(backbone, {"s": StandIn()}, necks)(torch.zeros(1, 3, height, width, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("claimed", "facts"),
    [
        ({"channels": (8, 8, 16, 8)}, ["[8, 8, 16, 8]", "(1, 16, 2, 4)"]),
        ({"channels": (8, 8, 16), "strides": (4, 8, 16)}, ["a list of 3 maps", "(1, 16, 2, 4)"]),
        ({"strides": (4, 8, 16)}, ["strides [4, 8, 16]", "a list of 4 maps"]),
        (
            {"strides": (4, 8, 16, 16)},
            ["level 3", "2 x 4 cells", "64 x 128 pixels", "stride 16", "4 x 8 are expected", "to [4, 8, 16, 32]"],
        ),
        ({"strides": (8, 16, 32, 64)}, ["level 0", "16 x 32 cells", "stride 8", "to [4, 8, 16, 32]"]),
    ],
    ids=["channels", "levels", "number of strides", "stride", "all strides"],
)
def test_a_backbone_that_claims_what_it_has_not_is_an_error(
    claimed: dict[str, tuple[int, ...]], facts: list[str]
) -> None:
    with pytest.raises(PluginError, match="^backbone Claims: ") as error:
        run(Claims(**claimed), 64, 128)
    assert all(fact in str(error.value) for fact in facts), str(error.value)


def test_each_size_is_checked_and_an_error_is_repeated() -> None:
    backbone = Claims(later=2)
    run(backbone, 64, 128)
    for _ in range(2):
        with pytest.raises(PluginError, match=r"4 x 8 cells for images of 32 x 64 .* to \[8, 16, 32, 64\]"):
            run(backbone, 32, 64)


def test_a_module_that_is_wrapped_with_a_wrong_stride_is_an_error() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 4, 4))
    run(ModuleBackbone(net, [8], [16]), 50, 70)
    with pytest.raises(PluginError, match=r"ModuleBackbone: level 0 .* stride 8.* Fix: set its strides to \[16\]"):
        run(ModuleBackbone(net, [8], [8]), 50, 70)
    unpadded = nn.Conv2d(3, 8, 5, 4)
    with pytest.raises(PluginError, match=r"15 x 15 cells .* 16 x 16 are expected. Fix: return maps of ceil"):
        run(ModuleBackbone(unpadded, [8], [4]), 64, 64)


def test_tokens_of_another_grid_are_an_error() -> None:
    backbone = densevit.create_backbone("vit", variant="nano", patch_size=8)
    backbone.strides = (16,) * 4
    head = densevit.create_head("eomt_semantic", backbone.channels, backbone.strides, ["a"], num_queries=2)
    model = DenseModel(backbone, {"s": head})
    with pytest.raises(PluginError, match=r"has 4 x 6 cells for images of 32 x 48 .* set its strides to \[8\]"):
        model(torch.zeros(1, 3, 32, 48, dtype=torch.uint8))


class Coarsest(Neck):
    """The coarsest feature, upsampled by a factor."""

    def __init__(self, strides: tuple[int, ...], factor: int = 2) -> None:
        super().__init__((16,), strides)
        self.factor = factor

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        return [features[-1].repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)]


def test_a_neck_that_claims_a_stride_that_it_has_not_is_an_error() -> None:
    run(FourMaps(), 64, 128, s=Coarsest((16,)))
    with pytest.raises(PluginError, match=r"^heads\.s\.neck Coarsest: level 0 .*stride 32.* set its strides to \[16\]"):
        run(FourMaps(), 64, 128, s=Coarsest((32,)))


class Patches(densevit.Backbone):
    """Patches of 16 x 16 pixels, padded, of images of a fixed size."""

    channels, strides, input_size = (32,), (16,), (50, 70)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 32, 16, 16)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layer(F.pad(images, (0, -images.shape[3] % 16, 0, -images.shape[2] % 16)))]


@pytest.mark.parametrize("name", densevit.list_plugins("necks"))
def test_every_neck_has_its_strides(name: str) -> None:
    """Also on a backbone of a fixed size that is no multiple of its stride, whose cells a neck upsamples."""
    backbone = Patches()
    run(backbone, 50, 70, s=densevit.create_neck(name, backbone.channels, backbone.strides))
    four = FourMaps()
    run(four, 75, 101, s=densevit.create_neck(name, four.channels, four.strides))


def test_sizes_are_not_compared_while_they_are_traced() -> None:
    """A comparison would compile again for each size."""
    graphs, backbone = list[Any](), FourMaps()

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def checked(images: Tensor) -> list[Tensor]:
        features = [images.new_zeros(1, c, images.shape[2] // 4, 5) for c in backbone.channels]
        check_features("backbone", backbone, features, images.shape[2:])
        return features

    compiled = torch.compile(checked, backend=backend, dynamic=True, fullgraph=True)
    for height in (16, 18, 41):  # the last two also with a wrong number of cells
        assert compiled(torch.zeros(1, 3, height, 24))[0].shape[2] == height // 4
    assert len(graphs) == 1
