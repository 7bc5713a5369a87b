"""What is checked: a plugin's class, the way to build it, and what it computes on made-up input."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densevit.interfaces import Backbone

Factory = Callable[..., Any]


class Subject(ABC):
    """A plugin under test. group: its registry group. plugin: its class, known once one was built."""

    group: str

    def __init__(self, factory: Factory) -> None:
        self.factory = factory
        self.plugin: type[nn.Module] = nn.Module
        self._shared: nn.Module | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        factory = self.factory.func if isinstance(self.factory, functools.partial) else self.factory
        return str(getattr(factory, "__qualname__", None) or type(factory).__name__)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, where the factory is a functools.partial that shows them."""
        return dict(self.factory.keywords) if isinstance(self.factory, functools.partial) else {}

    @abstractmethod
    def build(self, seed: int = 0) -> Any:
        """A fresh instance, with its random weights from this seed."""

    @abstractmethod
    def build_with(self, **options: Any) -> Any:
        """A fresh instance with options on top of the factory's; a TypeError or ValueError where it refuses them."""

    @abstractmethod
    def run(self, module: Any) -> dict[str, Tensor]:
        """What it computes in evaluation mode, without gradients, on the same made-up input each time."""

    @abstractmethod
    def training_loss(self, module: Any, attempt: int = 0) -> Tensor:
        """A scalar that depends on all it computes, in training mode. attempt: other input, other random numbers."""

    def shared(self) -> Any:
        """One instance, in evaluation mode, for all checks that leave it as it is."""
        if self._shared is None:
            self._shared = self.build()
        return self._shared.eval()


class BackboneSubject(Subject):
    """A backbone. size: the (H, W) at which it is tried; `sizes` those that it has to take."""

    group = "backbones"
    size: tuple[int, int] = (64, 96)

    def build(self, seed: int = 0) -> Backbone:
        torch.manual_seed(seed)
        backbone: Backbone = self.factory()
        self.plugin = type(backbone)
        return backbone

    def build_with(self, **options: Any) -> Backbone:
        return self.plugin(**{**self.options, **options})  # type: ignore[return-value]

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Odd, prime, square and high; the only one, where the backbone states an `input_size`."""
        own = self.shared().input_size
        return (tuple(own),) if own is not None else ((33, 47), (61, 97), (64, 64), (96, 32))

    def images(self, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 1) -> Tensor:
        """(B, 3, H, W): normalised noise, coarse and fine, the same for the same arguments."""
        generator = torch.Generator().manual_seed(seed)
        H, W = size or self.size
        coarse = torch.randn(batch, 3, -(-H // 16), -(-W // 16), generator=generator)
        coarse = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :H, :W]
        return (coarse + 0.5 * torch.randn(batch, 3, H, W, generator=generator)).clamp(-2.1, 2.6)

    def run(self, module: Backbone) -> dict[str, Tensor]:
        with torch.no_grad():
            return named(module.eval()(self.images()))

    def training_loss(self, module: Backbone, attempt: int = 0) -> Tensor:
        features = module.train()(self.images(seed=attempt + 1))
        return weighted_sum(features, seed=attempt)


def named(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Features by the name that messages give them."""
    return {f"features[{i}]": feature for i, feature in enumerate(features)}


def weighted_sum(tensors: Sequence[Tensor], seed: int = 0) -> Tensor:
    """A sum with random weights, so that no norm's constraint makes a gradient vanish."""
    generator = torch.Generator().manual_seed(seed)
    terms = [(x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in tensors]
    return torch.stack([term.float() for term in terms]).sum()


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a part of the largest value; infinite where shapes or what is finite differ."""
    if found.shape != expected.shape:
        return float("inf")
    if found.numel() == 0:
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    if not (found.isfinite().all() and expected.isfinite().all()):
        return 0.0 if torch.equal(found, expected) else float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, float]:
    """The tensor that differs most, and by how much (`difference`)."""
    if found.keys() != expected.keys():
        return ", ".join(sorted(found.keys() ^ expected.keys())), float("inf")
    return max(((name, difference(found[name], expected[name])) for name in expected), key=lambda pair: pair[1])


def shape(x: Tensor) -> str:
    """A shape as messages print it: (2, 64, 8, 12)."""
    return str(tuple(x.shape))


def constructor(plugin: type) -> list[inspect.Parameter]:
    """The parameters of a class's constructor, without self."""
    return list(inspect.signature(plugin).parameters.values())
