"""The backbone contract tests: valid backbones pass, and each broken one fails the corresponding check."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.interfaces import Backbone
from densevit.testing import backbone_checks


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


def changed(init=None, forward=None, **attributes):
    """A `Sound` whose constructor ends with `init(self)`, whose forward is a function of (self, images), and so on.

    It is no class of a module: `failures` leaves out the checks that need one.
    """

    def constructor(self):
        Sound.__init__(self)
        if init is not None:
            init(self)

    return type("Changed", (Sound,), {"__init__": constructor, "forward": forward or Sound.forward, **attributes})


def sets(**values):
    """An `init` that sets attributes."""
    return lambda self: [setattr(self, name, value() if callable(value) else value) for name, value in values.items()]


def mapped(change):
    """A forward that changes each feature."""
    return lambda self, images: [change(x) for x in Sound.forward(self, images)]


def staged(change):
    """A forward that changes the output of the stem."""

    def forward(self, images):
        x = change(self, self.stem(images))
        return [x, self.stage(x)]

    return forward


def raises(self, images):
    raise RuntimeError("no such luck")


def fixed_device(self, images):
    fine, coarse = Sound.forward(self, images)
    return [fine * torch.ones(1, fine.shape[1], 1, 1), coarse]


def overflows(self):
    self.stem[0][0].weight.data.mul_(1e6)  # undone by the following norm


def scaled(self, images):
    """A residual branch with a scale of zero, as at initialisation."""
    fine, coarse = Sound.forward(self, images)
    return [fine, coarse + self.scale * self.branch(coarse)]


class IgnoresAChannel(Sound):
    """Takes `in_channels`, and reads three of them."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()

    def forward(self, images):
        return super().forward(images.expand(-1, max(3, images.shape[1]), -1, -1)[:, :3])


class Lambda(Sound):
    """Holds a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = lambda x: x.relu()

    def forward(self, images):
        return [self.activation(x) for x in super().forward(images)]


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


class NoDocstring(Sound):
    __doc__ = None


def positions_by_token_count(self, x):
    """Adds the row of each cell; its cache takes maps of H x W and W x H cells for one size."""
    count = x.shape[2] * x.shape[3]
    if count not in self.cache:
        self.cache[count] = torch.arange(count).to(x) // x.shape[3] / 100
    return x + self.cache[count].view(x.shape[2:])


def first_positions(self, x):
    """Resizes the positions of the first images."""
    table = self.cache.setdefault("table", torch.linspace(0, 1, x.shape[2])[:, None].expand(x.shape[2:]))
    return x + F.interpolate(table[None, None], x.shape[2:]).to(x)


def failures(factory, skip=("export",)):
    """Messages of failed checks, by name."""
    local = ("registration", "pickling") if getattr(factory, "__name__", "") == "Changed" else ()
    results = backbone_checks(factory, skip=(*skip, *local))
    return {result.name: result.message for result in results if not result.passed}


POSITIONS = {
    "init": sets(positions=lambda: nn.Parameter(torch.randn(8, 16, 24))),
    "forward": staged(lambda self, x: x + self.positions),
}
SAYS_ITS_SIZE = changed(**POSITIONS, input_size=(64, 96))


@pytest.mark.parametrize(
    ("checks", "broken"),
    [  # the checks that fail, and what fails them
        ("attributes", changed(init=sets(channels=[8, 16]))),
        (
            "order",
            changed(init=sets(channels=(16, 8), strides=(8, 4)), forward=lambda self, x: Sound.forward(self, x)[::-1]),
        ),
        ("forward", changed(forward=lambda self, x: Sound.forward(self, x)[:1])),
        ("forward", changed(forward=raises)),
        ("layout", changed(forward=mapped(lambda x: x.permute(0, 2, 3, 1)))),
        ("channels", changed(init=sets(channels=(8, 24)))),
        ("strides", changed(init=sets(strides=(4, 16)))),
        ("strides", changed(init=sets(stem=lambda: nn.Conv2d(3, 8, 4, stride=4)))),
        ("sizes", changed(**POSITIONS)),
        ("places", changed(forward=mapped(lambda x: x.transpose(2, 3).flatten(2).view_as(x)))),
        ("parameter_gradients", changed(init=sets(scale=lambda: nn.Parameter(torch.ones(8))))),
        ("parameter_gradients image_gradients", changed(forward=staged(lambda self, x: x.detach()))),
        ("trains", changed(forward=mapped(lambda x: torch.where(x > 0.5, (x - 0.5).sqrt(), 0.1 * x)))),
        ("determinism", changed(forward=mapped(lambda x: F.dropout(x, 0.1)))),
        ("batch_independence", changed(forward=mapped(lambda x: F.batch_norm(x, None, None, training=True)))),
        ("input_unchanged", changed(forward=lambda self, x: Sound.forward(self, x.mul_(0.5)))),
        ("autocast_float16", changed(init=overflows)),
        ("float64", changed(forward=mapped(lambda x: x.float()))),
        ("earlier_sizes", changed(init=sets(cache=dict), forward=staged(positions_by_token_count))),
        ("earlier_sizes", changed(init=sets(cache=dict), forward=staged(first_positions))),
        ("memory_layouts", changed(forward=lambda self, x: Sound.forward(self, x.view(len(x), -1).view(x.shape)))),
        ("device", changed(forward=fixed_device)),
        (
            "state_dict",
            changed(
                init=sets(scale=lambda: 0.5 + torch.rand(8, 1, 1)), forward=staged(lambda self, x: x * self.scale.to(x))
            ),
        ),
        (
            "seeding",
            changed(init=lambda self: nn.init.constant_(self.stage[0].bias, np.random.default_rng().uniform())),
        ),
        (
            "parameter_depths",
            changed(parameter_depths=lambda self: [*Backbone.parameter_depths(self), list(self.stem.parameters())]),
        ),
        ("pickling", Lambda),
        ("options", TakesAnything),
        ("registration", NoDocstring),
        ("in_channels", IgnoresAChannel),
    ],
)
def test_broken_backbone_fails_the_named_checks(checks, broken):
    assert failures(broken).keys() == set(checks.split())


def test_data_dependent_control_flow_fails_export():
    def forward(self, images):
        features = Sound.forward(self, images)
        return [torch.zeros_like(x) for x in features] if images.abs().sum() == 0 else features

    found = failures(changed(forward=forward), skip=())
    assert found.keys() == {"export"} and "no `if x.sum() > 0`" in found["export"]


def test_valid_backbone_passes():
    before = torch.get_rng_state()
    of_zeros = sets(branch=lambda: nn.Conv2d(16, 16, 1), scale=lambda: nn.Parameter(torch.zeros(16, 1, 1)))
    frozen = changed(init=lambda self: self.stem.requires_grad_(False))
    for sound in (Sound, SAYS_ITS_SIZE, RefusesItself, changed(init=of_zeros, forward=scaled), frozen):
        assert failures(sound) == {}
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state is kept"


def test_invalid_construction_fails_first():
    one = Sound()
    for factory in (lambda: nn.Linear(1, 1), lambda: one, lambda: 1 / 0):
        assert failures(factory).keys() == {"construction"}
