"""Checks of a training method against `densevit.interfaces.Method`, on a small model and rendered scenes."""

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from densevit import config as configs
from densevit.data.data_builder import build_data
from densevit.interfaces import Batch, LossContext, Losses, Method
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.targets.types import GENERAL_KEYS
from densevit.training.loop.supervised_method import check_method as check_saved_model
from densevit_workbench.testing import state_checks
from densevit_workbench.testing.check_results import CheckResult, NotChecked, all_passed, check, require, run
from densevit_workbench.testing.fixtures import Fixture, require_class, require_equal, require_new
from densevit_workbench.testing.gradients import ATTEMPTS, listed, perturb

SECTIONS: dict[str, Any] = {
    "backbone": {"name": "vit", "variant": "nano", "drop_path": 0.0, "image_size": 64},
    "data": {
        "name": "scenes", "image_size": 64, "batch_size": 2, "num_workers": 0, "train_length": 2, "val_length": 2,
    },
    "trainer": {"max_steps": 2, "accelerator": "cpu"},
}  # fmt: skip
HEADS = {"surfaces": {"name": "setr", "decoder": "naive", "width": 16, "auxiliary": [], "norm": "group"}}
STEPS = 2


class MethodFixture(Fixture):
    """A method for a small ViT, with a segmentation head if the method needs heads. `build` also creates a new
    `model`."""

    group = "methods"

    def build(self, seed: int = 0) -> Method:
        torch.manual_seed(seed)
        needs_heads = getattr(getattr(self.factory, "func", self.factory), "needs_heads", True)
        self.config = configs.from_mapping({**SECTIONS, "heads": HEADS if needs_heads else {}})
        classes = classes_by_head(self.config, build_data(self.config).train)
        self.model: DenseModel = build_from_sections(self.config, classes)
        method: Method = self.factory(self.model)
        self.plugin = type(method)
        return method

    def build_with(self, **options: Any) -> Method:
        self.build()
        return self.plugin(self.model, **{**self.options, **options})  # type: ignore[return-value]

    def batch(self, method: Method) -> Batch:
        """The first batch, with the views of the method."""
        data = build_data(self.config)
        data.use(method)
        batch: Batch = next(iter(data.padded_to(self.model.padding).train_loader()))
        return batch

    def losses(self, method: Method, batch: Batch, step: int = 0) -> Losses:
        """The weighted loss terms of a training step, by name."""
        method.train().set_progress(step / STEPS)
        return method.training_step(self.model.train(), batch, LossContext(step=step))

    def run(self, module: Method) -> dict[str, Tensor]:
        """The loss terms of a training step from a fixed random state, without gradients."""
        torch.manual_seed(0)
        with torch.no_grad():
            return dict(self.losses(module, self.batch(module)))

    def training_loss(self, module: Method, attempt: int = 0) -> Tensor:
        torch.manual_seed(attempt)
        return torch.stack([*self.losses(module, self.batch(module)).values()]).sum()

    def parameters(self, method: Method) -> dict[str, torch.nn.Parameter]:
        """The trained parameters of the model and of the method, by name."""
        named = {f"model.{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        method_parameters = {f"method.{name}": p for name, p in method.named_parameters() if p.requires_grad}
        return named | method_parameters


@check("a method for a model", "take the model first and call super().__init__(model)", required=True)
def construction(fixture: MethodFixture) -> None:
    """The class is a Method, each call builds a new one, and `eval_model` is the model or a part of the method."""
    method = fixture.build()
    require_class(method, Method)
    require_new(method, fixture.build())
    check_saved_model(fixture.build(), fixture.model)


@check("finite losses", "return a dict of scalar tensors from training_step(model, batch, context)", required=True)
def losses(fixture: MethodFixture) -> str:
    """A training step returns a dict of finite scalars that have a gradient."""
    method = fixture.build()
    terms = fixture.losses(method, fixture.batch(method))
    require(isinstance(terms, dict) and terms, f"{type(terms).__name__} {terms!r:.80}", "a dict of loss terms", _TERMS)
    for name, term in terms.items():
        actual = f"{name} of shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"{name} = {term!r:.40}"
        require(isinstance(term, Tensor) and term.ndim == 0, actual, "a scalar tensor", _TERMS)
        require(term.isfinite(), f"{name} = {float(term)}", "finite numbers", "add an eps to divisions, sqrt and log")
    require(any(term.requires_grad for term in terms.values()), "no gradient", "losses with a gradient", _GRADIENT)
    return ", ".join(terms)


@check("gradients", "do not detach")
def gradients(fixture: MethodFixture) -> None:
    """Gradients reach the model, and all trained parameters of the method."""
    method = fixture.build()
    perturb(method)
    perturb(fixture.model)
    parameters = fixture.parameters(method)
    for attempt in range(ATTEMPTS):
        fixture.training_loss(method, attempt).backward()
    reached = any(p.grad is not None and p.grad.any() for key, p in parameters.items() if key.startswith("model."))
    require(reached, "no gradient in the model", "gradients in the model, which is trained", _GRADIENT)
    missing = [name for name, p in parameters.items() if name.startswith("method.") and p.grad is None]
    frozen = "freeze a teacher with requires_grad_(False)"
    require(not missing, f"no gradient in {listed(missing)}", "a gradient in each trained parameter", frozen)


@check("the same terms of blank images", "multiply a term without pixels or labels by 0; do not leave it out")
def blank_images(fixture: MethodFixture) -> None:
    """Black images have the same loss terms, finite."""
    method = fixture.build()
    batch = fixture.batch(method)
    expected = fixture.losses(method, batch)
    for view in (batch, *batch.get("other_views", ())):
        view["images"] = torch.zeros_like(view["images"])
    _require_terms(fixture.losses(method, batch), expected)


@check("images without labels", "set needs_labels = True, or do not read labels from the targets")
def labels(fixture: MethodFixture) -> None:
    """A method without `needs_labels` trains on images without labels."""
    method = fixture.build()
    if method.needs_labels:
        raise NotChecked("needs_labels is set: data without labels is an error")
    batch = fixture.batch(method)
    expected = fixture.losses(method, batch)
    for view in (batch, *batch.get("other_views", ())):
        view["targets"] = [{key: x for key, x in target.items() if key in GENERAL_KEYS} for target in view["targets"]]
    _require_terms(fixture.losses(method, batch), expected)


@check("validation losses", "return one loss per image (B,) from validation_losses(model, batch)")
def validation_losses(fixture: MethodFixture) -> None:
    """`validation_losses` returns a finite loss per image, the same each time."""
    method = fixture.build().eval()
    if type(method).validation_losses is Method.validation_losses:
        raise NotChecked("not implemented: without heads, the last epoch is saved")
    batch = next(iter(build_data(fixture.config).padded_to(fixture.model.padding).val_loader()))
    model = method.eval_model(fixture.model).eval()
    with torch.no_grad():
        first, second = (method.validation_losses(model, batch) for _ in range(2))
    actual, count = f"shape {tuple(first.shape)}", len(batch["images"])
    require(first.shape == (count,), actual, f"({count},) of {count} images", "do not average over the batch")
    require(first.isfinite().all(), "a loss that is not finite", "finite numbers", "clamp divisors")
    seeded = "take random numbers from a torch.Generator with a fixed seed"
    require(torch.equal(first, second), "another loss in the second validation", "the same loss", seeded)


@check("an exact resumption", "keep all changing values in parameters and buffers")
def resuming(fixture: MethodFixture) -> None:
    """Two steps with `after_step` keep all parameters finite; a new instance with the saved state dicts continues with
    the same losses."""
    method = fixture.build(seed=1)
    _train(fixture, method)
    wrong = [name for name, p in fixture.parameters(method).items() if not p.isfinite().all()]
    require(not wrong, f"{listed(wrong)} not finite after {STEPS} steps", "finite numbers", "check the losses")
    states, expected = (
        (copy.deepcopy(fixture.model.state_dict()), copy.deepcopy(method.state_dict())),
        fixture.run(method),
    )
    restored = fixture.build(seed=2)
    fixture.model.load_state_dict(states[0])
    restored.load_state_dict(states[1])
    require_equal(
        fixture.run(restored),
        expected,
        "{name} that differs by {difference} after loading the state dicts of model and method",
        "store changing values as nn.Parameter or with register_buffer(name, tensor); a plain attribute is not saved",
        tolerance=state_checks.ROUNDING,
        wanted="the same losses: a resumed training continues exactly",
    )


def _require_terms(terms: Losses, expected: Losses) -> None:
    actual = f"{', '.join(sorted(terms))} in place of {', '.join(sorted(expected))}"
    require(terms.keys() == expected.keys(), actual, "the same terms", "return each term in each step")
    infinite = [name for name, term in terms.items() if not term.isfinite()]
    require(
        not infinite, f"{listed(infinite)} not finite", "finite numbers", "clamp divisors, as in sum().clamp(min=1)"
    )


def _train(fixture: MethodFixture, method: Method) -> None:
    """Trains a few optimiser steps, each with `after_step`."""
    optimizer = torch.optim.AdamW(fixture.parameters(method).values(), lr=1e-3)
    batch = fixture.batch(method)
    for step in range(STEPS):
        optimizer.zero_grad()
        torch.stack([*fixture.losses(method, batch, step).values()]).sum().backward()
        optimizer.step()
        with torch.no_grad():
            method.after_step(fixture.model)


_TERMS = 'return {"name": loss}, with the mean of each loss'
_GRADIENT = "call model(batch) or model.backbone(pixels) in training_step, and look for detach() and no_grad()"
CHECKS = (
    construction,
    losses,
    gradients,
    blank_images,
    labels,
    validation_losses,
    resuming,
    state_checks.seeding,
    state_checks.options,
    state_checks.registration,
)


def check_method(factory: Callable[..., Method], *, skip: Collection[str] = ()) -> list[CheckResult]:
    """Checks that a training method meets its interface. Returns the results; raises CheckFailed with all failures.

    factory: a class, or a callable that returns a new instance for a model, such as `functools.partial(MyMethod,
    noise=0.2)`. skip: names of checks to leave out.
    """
    fixture = MethodFixture(factory)
    return all_passed(fixture.name, run(CHECKS, fixture, skip))


def method_checks(factory: Callable[..., Method], *, skip: Collection[str] = ()) -> Iterator[CheckResult]:
    """Yields the results of `check_method`, failures included; does not raise CheckFailed."""
    return run(CHECKS, MethodFixture(factory), skip)
