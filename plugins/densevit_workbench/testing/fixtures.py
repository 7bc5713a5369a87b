"""Fixtures: builds a plugin under test, and runs it on random input."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone
from densevit_workbench.testing.check_results import require

ROUNDING = 1e-4  # tolerance for another order of summation, relative to the largest value

Factory = Callable[..., Any]
Size = tuple[int, int]


class Fixture(ABC):
    """A plugin under test. group: registry group. plugin: the plugin's class, set by the first `build`."""

    group: str

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.plugin: type[nn.Module] = nn.Module
        self._shared: nn.Module | None = None

    @property
    def name(self) -> str:
        """The plugin's name in messages."""
        factory = self.factory.func if isinstance(self.factory, functools.partial) else self.factory
        return str(getattr(factory, "__qualname__", None) or type(factory).__name__)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options if the factory is a functools.partial, else empty."""
        return dict(self.factory.keywords) if isinstance(self.factory, functools.partial) else {}

    @abstractmethod
    def build(self, seed: int = 0) -> Any:
        """A new instance, with random weights from this seed."""

    @abstractmethod
    def build_with(self, **options: Any) -> Any:
        """A new instance with further options than the factory's. Raises the constructor's exceptions."""

    @abstractmethod
    def run(self, module: Any) -> dict[str, Tensor]:
        """The outputs in evaluation mode, without gradients, on a fixed random input."""

    @abstractmethod
    def training_loss(self, module: Any, attempt: int = 0) -> Tensor:
        """A scalar that depends on all outputs, in training mode. attempt: seed of the input."""

    def shared(self) -> Any:
        """One instance in evaluation mode, shared by all checks that leave it unchanged."""
        if self._shared is None:
            self._shared = self.build()
        return self._shared.eval()


class BackboneFixture(Fixture):
    """A backbone. size: (H, W) of the images in most checks, set by the check `forward`."""

    group = "backbones"
    size: Size = (64, 96)

    def build(self, seed: int = 0) -> Backbone:
        torch.manual_seed(seed)
        backbone: Backbone = self.factory()
        self.plugin = type(backbone)
        return backbone

    def build_with(self, **options: Any) -> Backbone:
        return self.plugin(**{**self.options, **options})  # type: ignore[return-value]

    def sizes(self) -> tuple[Size, ...]:
        """Required image sizes: odd, prime, square and portrait, or `input_size` alone."""
        fixed = self.shared().input_size
        return (tuple(fixed),) if fixed is not None else ((33, 47), (61, 97), (64, 64), (96, 32))

    def images(self, batch: int = 2, size: Size | None = None, seed: int = 1, channels: int = 3) -> Tensor:
        """(B, channels, H, W): coarse plus fine noise in the range of normalised pixels; deterministic."""
        generator = torch.Generator().manual_seed(seed)
        H, W = size or self.size
        coarse = torch.randn(batch, channels, -(-H // 16), -(-W // 16), generator=generator)
        coarse = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :H, :W]
        return (coarse + 0.5 * torch.randn(batch, channels, H, W, generator=generator)).clamp(-2.1, 2.6)

    def features(self, images: Tensor | None = None) -> list[Tensor]:
        """Features of the shared backbone in evaluation mode, without gradients."""
        with torch.no_grad():
            return list(self.shared()(self.images() if images is None else images))

    def run(self, module: Backbone) -> dict[str, Tensor]:
        with torch.no_grad():
            return named(module.eval()(self.images()))

    def training_loss(self, module: Backbone, attempt: int = 0) -> Tensor:
        return weighted_sum(module.train()(self.images(seed=attempt + 1)), seed=attempt)


def named(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Features by name, for messages."""
    return {f"features[{i}]": feature for i, feature in enumerate(features)}


def weighted_sum(tensors: Sequence[Tensor], seed: int = 0) -> Tensor:
    """A sum with random weights: the gradient of a plain sum vanishes behind a normalisation layer."""
    generator = torch.Generator().manual_seed(seed)
    terms = [(x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in tensors]
    return torch.stack([term.float() for term in terms]).sum()


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest value; infinite if shapes or non-finite values differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if actual.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return 0.0 if torch.equal(actual, expected) else float("inf")
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def worst(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, float]:
    """The name of the tensor that differs most, and its `difference`."""
    if actual.keys() != expected.keys():
        return ", ".join(sorted(actual.keys() ^ expected.keys())), float("inf")
    return max(((name, difference(actual[name], expected[name])) for name in expected), key=lambda pair: pair[1])


def require_equal(
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    message: str,
    fix: str,
    tolerance: float = ROUNDING,
    wanted: str = "the same",
) -> None:
    """Raises Failure if tensors differ by more than the tolerance (see `difference`).

    message: a template with {name} and {difference} of the most different tensor. wanted: the expected result in words.
    """
    name, far = worst(actual, expected)
    require(far <= tolerance, message.format(name=name, difference=f"{far:.2g} of the largest value"), wanted, fix)


def require_class(plugin: object, interface: type) -> None:
    """Raises Failure if a plugin is not an instance of the interface."""
    class_name, base = type(plugin).__name__, interface.__name__
    actual, fix = f"an object of class {class_name}", f"write `class {class_name}(densevit.{base})`"
    require(isinstance(plugin, interface), actual, f"a densevit.{base}", fix)


def require_new(first: object, second: object) -> None:
    """Raises Failure if a factory returned the same object twice."""
    require(first is not second, "one object twice", "a new one at each call", "let the factory call the constructor")


def grid(size: Size, stride: int) -> Size:
    """(h, w) of a feature map: ceil(size / stride)."""
    return -(-size[0] // stride), -(-size[1] // stride)
