"""`check_method`: built-in methods pass, and each check fails for a method that breaks its property."""

import functools
import re
from typing import Any

import pytest
import torch
from torch import nn

from densevit import registry
from densevit.interfaces import Method
from densevit_workbench.testing.method_checks import CHECKS, check_method, method_checks

pytestmark = pytest.mark.integration

BUILT_IN: dict[str, dict[str, Any]] = {
    "supervised": {},
    "simmim": {},
    "mae": {"width": 16, "depth": 1, "num_heads": 2},
    "dino": {"local_crops": 1, "global_size": 64, "local_size": 32, "prototypes": 16},
    "moco_v3": {"image_size": 64, "hidden": 16, "width": 8},
    "mean_teacher": {"burn_in": 1},
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_passes(name: str) -> None:
    results = check_method(functools.partial(registry.load("methods", name), **BUILT_IN[name]))
    assert [one.name for one in results] == [check.name for check in CHECKS]


class Sound(Method):
    """The mean of the features, compared with a buffer."""

    def __init__(self, model: Any, scale: float = 1.0) -> None:
        super().__init__(model)
        self.scale = scale
        self.head = nn.Linear(model.backbone.channels[-1], 1)
        self.register_buffer("target", torch.zeros(()))

    def features(self, model: Any, batch: Any) -> torch.Tensor:
        pixels = model.normalise(batch["images"], batch["padding_mask"])
        return self.head(model.backbone(pixels)[-1].mean((2, 3)))  # type: ignore[no-any-return]

    def training_step(self, model: Any, batch: Any, context: Any) -> dict[str, Any]:
        return {"mean": self.scale * (self.features(model, batch) - 1 - self.target).square().mean()}

    def after_step(self, model: Any) -> None:
        self.target += 0.1

    def validation_losses(self, model: Any, batch: Any) -> torch.Tensor:
        return self.features(model, batch)[:, 0]


class OtherModel(Sound):
    """Saves a model that is not its own."""

    def eval_model(self, model: Any) -> Any:
        return nn.Identity()


class Infinite(Sound):
    """Divides by zero."""

    def training_step(self, model: Any, batch: Any, context: Any) -> dict[str, Any]:
        return {"mean": self.features(model, batch).mean() / 0}


class OnlyBright(Sound):
    """Leaves out a term of black images."""

    def training_step(self, model: Any, batch: Any, context: Any) -> dict[str, Any]:
        terms = super().training_step(model, batch, context)
        return {**terms, **({"bright": 0 * terms["mean"]} if batch["images"].any() else {})}


class ReadsLabels(Sound):
    """Needs labels, and does not say so."""

    def training_step(self, model: Any, batch: Any, context: Any) -> dict[str, Any]:
        found = sum(len(target["labels"]) for target in batch["targets"])
        return {"mean": super().training_step(model, batch, context)["mean"] * found}


class Forgets(Sound):
    """Counts its steps in a plain attribute."""

    steps = 0

    def after_step(self, model: Any) -> None:
        self.steps += 1
        self.scale = 1.0 + self.steps


BROKEN: dict[type[Method], tuple[str, str]] = {
    OtherModel: ("construction", "eval_model returned a Identity"),
    Infinite: ("losses", "mean = -?(inf|nan)"),
    OnlyBright: ("blank_images", "mean in place of bright, mean"),
    ReadsLabels: ("labels", "KeyError.*needs_labels = True"),
    Forgets: ("resuming", "mean that differs .* plain attribute is not saved"),
}


def test_a_sound_method_passes() -> None:
    notes = {one.name: one.note for one in check_method(Sound)}
    assert notes["losses"] == "mean" and not notes["labels"]


@pytest.mark.parametrize("method", BROKEN)
def test_a_broken_method_fails_one_check(method: type[Method]) -> None:
    name, message = BROKEN[method]
    [failed] = [one for one in list(method_checks(method)) if not one.passed]
    assert failed.name == name and re.search(message, failed.message), failed.message
