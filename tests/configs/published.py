"""Published recipes: files, further models of a file by the overrides in its first lines, their models and steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit import config as configs
from tools.conventions.recipes import variants

if TYPE_CHECKING:
    import torch

    from densevit.data.data_splits import DataSplits
    from densevit.interfaces import Class
    from densevit.model import DenseModel


@dataclass(frozen=True)
class Recipe:
    """A file with overrides, as in `backbone.variant=b2 heads.segmentation.width=768`."""

    path: Path
    overrides: str = ""

    def __str__(self) -> str:
        return f"{self.path.parent.name}/{self.name}"

    @property
    def name(self) -> str:
        """Without the folder."""
        return f"{self.path.stem} {self.overrides}".rstrip()

    def load(self, *overrides: str) -> configs.Config:
        """The config. overrides: further ones."""
        return _loaded(self.path, (*self.overrides.split(), *overrides))


@cache
def _loaded(path: Path, overrides: tuple[str, ...]) -> configs.Config:
    """A config, which nothing can change."""
    return configs.load(path, overrides)


def with_variants(paths: Iterable[Path]) -> list[Recipe]:
    """The recipes of files, sorted by file, with the variants that their first lines name."""
    return [Recipe(path, overrides) for path in sorted(paths) for overrides in ("", *variants(path.read_text()))]


def full_model(config: configs.Config, classes: "Mapping[str, Sequence[Class]]") -> "DenseModel":
    """The model of a config with valid options, on the meta device."""
    import torch

    from tests.built_models import build_model

    configs.check_plugins(config)
    with torch.device("meta"):
        return build_model(config, classes)


def count(module: "torch.nn.Module", trained: bool = False) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


@dataclass(frozen=True)
class Step:
    """One step of a training. before: the parameters. changed: the names of those that moved."""

    data: "DataSplits"
    model: "DenseModel"
    batch: dict[str, Any]
    losses: "dict[str, torch.Tensor]"
    before: "dict[str, torch.Tensor]"
    changed: set[str]


def one_step(config: configs.Config, images: int = 16) -> Step:
    """A step as in a training. Each trained parameter has a gradient, and moves unless its gradient is 0.

    images: of a step, for the learning rate. Norms of features that no head uses have no gradient.
    """
    import torch

    import densevit
    from densevit.data.data_builder import build_data
    from densevit.interfaces import LossContext
    from densevit.training.loop.optim import learning_rate, optimizer_of
    from tests.built_models import build_model

    configs.check_plugins(config)
    data = build_data(config)
    model = build_model(config, data.classes if config.heads else {}).train()
    if config.method.name == "supervised":
        batch = next(iter(data.train_loader()))
        losses = model.losses_of(model(batch), batch["targets"])
    else:
        method = densevit.create_method(config.method.name, model, **config.method.options)
        data.use(method)
        batch = next(iter(data.train_loader()))
        losses = method.train().training_step(model, batch, LossContext())
    optimizer = optimizer_of(model, config.optim, learning_rate(config.optim, images))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    optimizer.step()
    assert total.isfinite()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    for name, parameter in model.named_parameters():
        unused = name.startswith("backbone.feature_norms.")
        assert unused or (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.requires_grad or name not in changed, name
        assert name in changed or parameter.grad is None or not parameter.grad.any(), name
    return Step(data, model, batch, losses, before, changed)
