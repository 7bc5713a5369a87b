"""Checks of a head's losses for target values that label nothing (`TargetType.unlabelled`)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from densevit.interfaces import Head, LossContext
from densevit_workbench.testing.head_fixtures import GRID, HeadBatch, HeadFixture, total
from densevit_workbench.testing.results import NotChecked, check, require
from densevit_workbench.testing.targets import SupportsUnlabelled

TOLERANCE = 1e-4  # for another order of summation, relative to the value
_SIGMA = 0.05  # of the noise on weights: layers that start with zeros would hide gradients
_FIX = "leave these values out of the losses, of their divisors and of `loss_counts`, as images without the key"


@check("a loss without the values that label nothing", _FIX)
def unlabelled_values(fixture: HeadFixture) -> None:
    """An image whose value labels nothing, such as a map of 255, changes no loss, gradient and normaliser."""
    fixture.require_labels()
    head = _with_noise(fixture.build())
    alone = fixture.batch(images=(GRID, GRID)).first()
    expected, gradients = _losses(head, alone), _gradients(head, alone)
    for key, text, value in _values(fixture):
        batch = fixture.batch(images=(GRID, GRID))
        batch.targets[1] = {**batch.targets[1], key: value}
        where = f"with a second image whose {key} is {text}"
        _require_same(_losses(head, batch), expected, where)
        found = _gradients(head, batch)
        for name, gradient in gradients.items():
            scale = max(float(gradient.abs().max()), 1e-3)
            require(
                float((found[name] - gradient).abs().max()) <= 10 * TOLERANCE * scale,
                f"another gradient of {name} {where}",
                "that of the first image alone",
                _FIX,
            )
        batch.targets[0] = {**batch.targets[0], key: value}
        for name, loss in head.loss(head(batch.copies(), batch.padding_mask), batch.targets, LossContext()).items():
            require(
                float(loss) == 0,
                f"losses[{name!r}] = {float(loss):.4g} where the {key} of all images is {text}",
                "exactly 0, as without labels",
                _FIX,
            )


def _values(fixture: HeadFixture) -> Iterator[tuple[str, str, Any]]:
    """The keys that the head needs with each of their values that label nothing, and its text for messages."""
    kinds = {key: fixture.types[key] for key in fixture.needs}
    found = [
        (key, value)
        for key, kind in kinds.items()
        if isinstance(kind, SupportsUnlabelled)
        for value in kind.unlabelled(GRID)
    ]
    if not found:
        raise NotChecked(f"no value of {', '.join(fixture.needs)} labels nothing")
    for key, value in found:
        yield key, f"{value.flat[0]:g}", torch.from_numpy(value)


def _with_noise(head: Head) -> Head:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(_SIGMA * torch.randn(parameter.shape, generator=generator))
    return head


def _losses(head: Head, batch: HeadBatch) -> dict[str, float]:
    """The losses in evaluation mode, and the normalisers of `loss_counts`."""
    with torch.no_grad():
        losses = head.eval().loss(head(batch.copies(), batch.padding_mask), batch.targets, LossContext())
    counts = head.loss_counts(batch.targets)
    values = {f"losses[{name!r}]": float(value) for name, value in losses.items()}
    return values | {f"loss_counts()[{name!r}]": float(value) for name, value in counts.items()}


def _gradients(head: Head, batch: HeadBatch) -> dict[str, Tensor]:
    """The gradients of the sum of the losses in evaluation mode."""
    head.eval().zero_grad(set_to_none=True)
    total(head.loss(head(batch.copies(), batch.padding_mask), batch.targets, LossContext())).backward()
    return {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}


def _require_same(found: dict[str, float], expected: dict[str, float], where: str) -> None:
    for name in found.keys() & expected.keys():
        require(
            abs(found[name] - expected[name]) <= TOLERANCE * max(abs(expected[name]), 1e-3),
            f"{name} = {found[name]:.6g} {where}",
            f"{expected[name]:.6g}, as without it",
            _FIX,
        )
