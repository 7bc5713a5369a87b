"""The backbone contract tests: valid backbones pass, and each broken one fails the corresponding check."""

import functools
import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from densevit import registry
from densevit.interfaces import Backbone
from densevit.layers import checkpointing
from densevit.testing import CheckFailed, backbone_checks, check_backbone
from densevit_workbench.testing.backbones import CHECKS


class Sound(Backbone):
    """Three convolutions of stride 2 or 4; features of strides 4 and 8."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.channels, self.strides = (width, 2 * width), (4, 8)
        self.stem = nn.Sequential(halve(3, width), halve(width, width))
        self.stage = halve(width, 2 * width)

    def forward(self, images):
        x = self.stem(images)
        return [x, self.stage(x)]


def halve(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(1, outputs), nn.ReLU())


class ListOfChannels(Sound):
    """Channels are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = list(self.channels)


class FewerStrides(Sound):
    """One stride for two features."""

    def __init__(self) -> None:
        super().__init__()
        self.strides = (4,)


class PixelsOf255(Sound):
    """A mean that is one number."""

    mean = 127.5


class CoarseFirst(Sound):
    """The coarse feature comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = self.channels[::-1], self.strides[::-1]

    def forward(self, images):
        return super().forward(images)[::-1]


class OneFeatureOfTwo(Sound):
    """Declares two features and returns one."""

    def forward(self, images):
        return super().forward(images)[:1]


class BareTensor(Sound):
    """Returns a map instead of a list of maps."""

    def forward(self, images):
        return super().forward(images)[0]


class Tokens(Sound):
    """Returns tokens instead of maps."""

    def forward(self, images):
        return [x.flatten(2).transpose(1, 2) for x in super().forward(images)]


class Raises(Sound):
    """Raises in forward."""

    def forward(self, images):
        raise RuntimeError("no such luck")


class ChannelsLast(Sound):
    """Returns (B, H, W, C)."""

    def forward(self, images):
        return [x.permute(0, 2, 3, 1) for x in super().forward(images)]


class WrongChannels(Sound):
    """Declares other channels than it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = (8, 24)


class WrongStride(Sound):
    """Declares stride 16 for a map of stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.strides = (4, 16)


class RoundsDown(Sound):
    """Drops rows and columns of incomplete patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)


class FixedSize(Sound):
    """Learned positions of one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 16, 24))

    def forward(self, images):
        x = self.stem(images) + self.positions
        return [x, self.stage(x)]


class SaysItsSize(FixedSize):
    """Learned positions of one grid, with a declared input size."""

    input_size = (64, 96)


class OtherSizesWrong(RoundsDown):
    """Declares an input size, and returns maps of the wrong size for others."""

    input_size = (64, 96)


class Transposed(Sound):
    """Confuses rows and columns of tokens."""

    def forward(self, images):
        return [x.transpose(2, 3).flatten(2).view_as(x) for x in super().forward(images)]


class DeadParameter(Sound):
    """An unused scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))


class Detached(Sound):
    """The stem gets no gradient."""

    def forward(self, images):
        x = self.stem(images).detach()
        return [x, self.stage(x)]


class ZeroScale(Sound):
    """A residual branch with a scale of zero, as at initialisation: valid."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.scale = nn.Conv2d(16, 16, 1), nn.Parameter(torch.zeros(16, 1, 1))

    def forward(self, images):
        fine, coarse = super().forward(images)
        return [fine, coarse + self.scale * self.branch(coarse)]


class FrozenPart(Sound):
    """A part with requires_grad=False: valid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.requires_grad_(False)


class SkipsPixels(Sound):
    """Its kernels are smaller than their stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)


class InfiniteGradient(Sound):
    """The square root of negative numbers, masked in the features but not in their gradients."""

    def forward(self, images):
        return [torch.where(x > 0.5, (x - 0.5).sqrt(), 0.1 * x) for x in super().forward(images)]


class RandomInEvaluation(Sound):
    """Dropout in evaluation mode too."""

    def forward(self, images):
        return [F.dropout(x, 0.1) for x in super().forward(images)]


class DrawsInEvaluation(Sound):
    """Draws an unused random number in evaluation mode."""

    def forward(self, images):
        torch.rand(1)
        return super().forward(images)


class BatchLeak(Sound):
    """Batch statistics in evaluation mode too."""

    def forward(self, images):
        return [F.batch_norm(x, None, None, training=True) for x in super().forward(images)]


class InPlace(Sound):
    """Scales the images in place."""

    def forward(self, images):
        return super().forward(images.mul_(0.5))


class ReusesOutput(Sound):
    """Overwrites the features of the previous call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = None

    def forward(self, images):
        features = super().forward(images)
        if self.training or features[0].requires_grad:
            return features
        if self.kept is None or self.kept.shape != features[0].shape or self.kept.dtype != features[0].dtype:
            self.kept = features[0].clone()
        return [self.kept.copy_(features[0]), features[1]]


class Overflows(Sound):
    """Values beyond the range of fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[0][0].weight.data.mul_(1e6)  # undone by the following norm


class Float32Only(Sound):
    """Casts to float32."""

    def forward(self, images):
        return [x.float() for x in super().forward(images)]


class ContiguousOnly(Sound):
    """Assumes contiguous images."""

    def forward(self, images):
        return super().forward(images.view(len(images), -1).view(images.shape))


class FixedDevice(Sound):
    """Creates a tensor on the default device."""

    def forward(self, images):
        fine, coarse = super().forward(images)
        return [fine * torch.ones(1, fine.shape[1], 1, 1), coarse]


class LooksAtValues(Sound):
    """Branches on the value of a tensor."""

    def forward(self, images):
        features = super().forward(images)
        return [torch.zeros_like(x) for x in features] if images.abs().sum() == 0 else features


class Unregistered(Sound):
    """A tensor that is not in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5 + torch.rand(8, 1, 1)

    def forward(self, images):
        x = self.stem(images) * self.scale.to(images)
        return [x, self.stage(x)]


class Lambda(Sound):
    """Holds a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.relu()

    def forward(self, images):
        return [self.activation(x) for x in super().forward(images)]


class UnseededWeights(Sound):
    """Initialises weights with numpy."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.stage[0].bias, np.random.default_rng().uniform())


class TakesAnything(Sound):
    """Accepts every option."""

    def __init__(self, width: int = 8, **options) -> None:
        super().__init__(width)


class RefusesItself(Sound):
    """Accepts **options and raises for unknown ones: valid."""

    def __init__(self, width: int = 8, **options: int) -> None:
        if options.keys() - {"depth"}:
            raise ValueError(f"unknown options: {', '.join(options)}")
        super().__init__(width)


class NotAnnotated(Sound):
    """An option without a type."""

    def __init__(self, width=8) -> None:
        super().__init__(width)


class DefaultOfAnotherType(Sound):
    """A default that contradicts its annotation."""

    def __init__(self, width: int = None) -> None:  # noqa: RUF013  # the mistake
        super().__init__(width or 8)


class NoDocstring(Sound):
    __doc__ = None


class ForgetsDepth(Sound):
    """Omits the stage in the parameter groups."""

    def parameter_depths(self):
        return [list(self.stem.parameters())]


class CountsTwice(Sound):
    """Lists the stem twice."""

    def parameter_depths(self):
        return [*super().parameter_depths(), list(self.stem.parameters())]


def failures(factory, skip=("export",)):
    """Messages of failed checks, by name."""
    return {result.name: result.message for result in backbone_checks(factory, skip=skip) if not result.passed}


@pytest.mark.parametrize(
    ("broken", "checks"),
    [
        (ListOfChannels, {"attributes"}),
        (FewerStrides, {"attributes"}),
        (PixelsOf255, {"attributes"}),
        (CoarseFirst, {"order"}),
        (OneFeatureOfTwo, {"forward"}),
        (BareTensor, {"forward"}),
        (Tokens, {"forward"}),
        (Raises, {"forward"}),
        (ChannelsLast, {"layout"}),
        (WrongChannels, {"channels"}),
        (WrongStride, {"strides"}),
        (RoundsDown, {"strides"}),
        (FixedSize, {"sizes"}),
        (OtherSizesWrong, {"sizes"}),
        (Transposed, {"places"}),
        (DeadParameter, {"parameter_gradients"}),
        (Detached, {"parameter_gradients", "image_gradients"}),
        (SkipsPixels, {"image_gradients"}),
        (InfiniteGradient, {"trains"}),
        (RandomInEvaluation, {"determinism"}),
        (DrawsInEvaluation, {"determinism"}),
        (BatchLeak, {"batch_independence"}),
        (InPlace, {"input_unchanged"}),
        (ReusesOutput, {"output_kept"}),
        (Overflows, {"autocast_float16"}),
        (Float32Only, {"float64"}),
        (ContiguousOnly, {"memory_layouts"}),
        (FixedDevice, {"device"}),
        (Unregistered, {"state_dict"}),
        (Lambda, {"pickling"}),
        (UnseededWeights, {"seeding"}),
        (TakesAnything, {"options"}),
        (NotAnnotated, {"options"}),
        (DefaultOfAnotherType, {"options"}),
        (NoDocstring, {"registration"}),
        (ForgetsDepth, {"parameter_depths"}),
        (CountsTwice, {"parameter_depths"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_backbone_fails_the_named_check(broken, checks):
    assert failures(broken).keys() == checks


def test_data_dependent_control_flow_fails_export():
    found = failures(LooksAtValues, skip=())
    assert found.keys() == {"export"}
    assert "no `if x.sum() > 0`" in found["export"]


def test_division_by_zero_fails_on_a_constant_image():
    class Standardises(Sound):
        """Divides by the image's standard deviation."""

        def forward(self, images):
            return super().forward(images / images.std((1, 2, 3), keepdim=True))

    assert {"finite", "autocast_bfloat16", "autocast_float16"} <= failures(Standardises).keys()


def test_local_class_is_neither_found_nor_pickled():
    class Local(Sound):
        """Defined in a function."""

    assert failures(Local).keys() == {"registration", "pickling"}


@pytest.mark.parametrize("sound", [Sound, SaysItsSize, ZeroScale, FrozenPart, RefusesItself])
def test_valid_backbone_passes(sound):
    assert failures(sound) == {}


class OneDepth(Sound):
    """Its whole model is one child."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleList([self.stem, self.stage])
        del self.stem, self.stage

    def forward(self, images):
        x = self.net[0](images)
        return [x, self.net[1](x)]


def test_a_single_depth_is_noted():
    notes = {result.name: result.note for result in check_backbone(OneDepth)}
    assert notes["parameter_depths"].startswith("1 depth: optim.layer_decay has no effect")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "options"), [("resnet", {"depth": 18}), ("swin", {"variant": "nano"})], ids=["resnet 18", "swin nano"]
)
def test_built_in_backbone_passes(name, options):
    results = check_backbone(functools.partial(registry.load("backbones", name), **options))
    assert {"export", "registration"} <= {result.name for result in results}
    assert next(r.note for r in results if r.name == "registration").startswith(f"found as '{name}', from densevit ")


@pytest.fixture
def stranger(project, monkeypatch):
    """The backbone of examples/plugins/mynet, unloaded afterwards."""
    monkeypatch.syspath_prepend(project / "examples" / "plugins" / "mynet")
    yield importlib.import_module("mynet").MyNet
    del sys.modules["mynet"]


def recomputed(runs):
    class Checkpointed(Sound):
        """With a batch norm; `checkpointing` recomputes it."""

        def __init__(self, checkpointing=False):
            super().__init__()
            self.checkpointing, self.added = checkpointing, nn.BatchNorm2d(3)

        def forward(self, images):
            checkpointed = self.checkpointing and self.training
            return super().forward(runs(self.added, images) if checkpointed else self.added(images))

    return Checkpointed


def test_checkpointing_that_updates_statistics_twice_is_found():
    others = [one.name for one in CHECKS if one.name not in ("construction", "forward", "checkpointing")]
    right = recomputed(lambda part, x: checkpointing.run(part, x, checkpointed=True))
    for backbone, note in ((right, ""), (Sound, "no option `checkpointing`")):
        assert [result.note for result in check_backbone(backbone, skip=others)][-1] == note
    wrong = recomputed(lambda part, x: checkpoint(part, x, use_reentrant=False))
    with pytest.raises(CheckFailed, match="the buffer added.num_batches_tracked that differs by"):
        check_backbone(wrong, skip=others)


def test_third_party_backbone_passes(stranger):
    results = {result.name: result for result in check_backbone(functools.partial(stranger, width=8))}
    assert all(result.passed for result in results.values())
    assert results["registration"].note == "no entry point; `name: mynet:MyNet` finds it"


def test_failures_list_found_expected_and_fix():
    class Twice(WrongStride):
        def __init__(self):
            super().__init__()
            self.channels = (8, 24)

    with pytest.raises(CheckFailed) as caught:
        check_backbone(Twice, skip=("export", "registration", "pickling"))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("test_failures_list")
    assert lines[0].endswith("Twice fails 2 of 27 checks:")
    assert lines[1:] == [
        "- channels: found maps of (8, 16) channels; expected (8, 24), as declared in channels. "
        "Fix: set self.channels = (8, 16), or change the maps.",
        "- strides: found maps of 9 x 12, 5 x 6 for images of 33 x 47; expected 9 x 12, 3 x 3: ceil(size / stride) "
        "for strides (4, 16). Fix: set self.strides to the strides of the maps, or change the maps.",
    ]


def test_nhwc_maps_and_rounded_down_maps_are_reported():
    assert "this looks like NHWC: return x.permute(0, 3, 1, 2)" in failures(ChannelsLast)["layout"]
    assert "the maps are rounded down: pad inside" in failures(RoundsDown)["strides"]


def test_exceptions_become_findings_that_name_the_line():
    message = failures(Raises)["forward"]
    assert "found RuntimeError: no such luck (test_backbones.py, line " in message
    assert message.endswith(" checks need this one.")
    message = failures(FixedSize)["sizes"]
    assert "(test_backbones.py, line " in message
    assert "for images of 33 x 47" in message


def test_invalid_construction_fails_first():
    one = Sound()
    assert failures(lambda: nn.Linear(1, 1)).keys() == {"construction"}
    assert failures(lambda: one).keys() == {"construction"}
    assert failures(lambda: 1 / 0).keys() == {"construction"}


def test_fixed_input_size_is_noted():
    notes = {result.name: result.note for result in backbone_checks(SaysItsSize, skip=("export",))}
    assert notes["sizes"] == "64 x 96 only"


def test_random_state_of_the_caller_is_preserved():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    failures(Sound)
    assert torch.equal(torch.rand(3), expected)


def test_skipping_an_unknown_check_raises():
    with pytest.raises(ValueError, match="There is no check 'exprt'. Did you mean 'export'?"):
        check_backbone(Sound, skip=("exprt",))
