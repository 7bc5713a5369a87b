"""Checks of a head's losses for unlabelled target values (`SupportsUnlabelled`) and crowds."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map  # noqa: PLC2701  # torch has no public name for it

from densevit.interfaces import VOID, Head, LossContext
from densevit_workbench.testing.check_results import NotChecked, check, require
from densevit_workbench.testing.head_fixtures import GRID, HeadBatch, HeadFixture, tensors, total
from densevit_workbench.testing.targets import SupportsUnlabelled

TOLERANCE = 1e-4  # for another order of summation, relative to the value
_SIGMA = 0.05  # noise on weights: zero-initialised layers would hide gradients
_MARGIN = 1.5  # cells of a map next to labelled pixels, which cubic interpolation mixes in
_FIX = "leave these values out of the losses, of their divisors and of `loss_counts`, as images without the key"


@check("a loss without the values that label nothing", _FIX)
def unlabelled_values(fixture: HeadFixture) -> None:
    """An image with an unlabelled value, such as a map of 255, changes no loss, gradient or normaliser."""
    fixture.require_labels()
    head = _with_noise(fixture.build())
    alone = fixture.batch(images=(GRID, GRID)).first()
    expected, gradients = _losses(head, alone), _gradients(head, alone)
    for key, text, value in _values(fixture):
        batch = fixture.batch(images=(GRID, GRID))
        batch.targets[1] = {**batch.targets[1], key: value}
        where = f"with a second image whose {key} is {text}"
        _require_same(_losses(head, batch), expected, where)
        with_second = _gradients(head, batch)
        for name, gradient in gradients.items():
            scale = max(float(gradient.abs().max()), 1e-3)
            require(
                float((with_second[name] - gradient).abs().max()) <= 10 * TOLERANCE * scale,
                f"another gradient of {name} {where}",
                "the gradient of the first image alone",
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


@check("no gradient where pixels are unlabelled", _FIX)
def unlabelled_pixels(fixture: HeadFixture) -> None:
    """The gradient of outputs at unlabelled pixels is 0."""
    fixture.require_labels()
    head, (H, W) = _with_noise(fixture.build()), GRID
    edge = 3 * W // 4
    checked = 0
    for key, text, value in _values(fixture, per="pixel"):
        batch = fixture.batch(images=(GRID, GRID))
        for i, target in enumerate(batch.targets):
            labels = target[key].clone()
            labels[..., :edge] = value[..., :edge]
            batch.targets[i] = {**target, key: labels}
        outputs = tree_map(_leaf, head.train()(batch.copies(), batch.padding_mask, batch.targets))
        total(head.loss(outputs, batch.targets, LossContext())).backward()
        for x in tensors(outputs):
            columns = int(edge * x.shape[-1] / W - _MARGIN) if _is_map(x, (H, W)) else 0
            if x.grad is None or columns <= 0:
                continue
            checked += 1
            require(
                not x.grad[..., :columns].any(),
                f"a gradient of an output of shape {tuple(x.shape)} where {key} is {text}",
                "0: these pixels are unlabelled",
                _FIX,
            )
    if not checked:
        raise NotChecked("not checked: no output of training is a spatial map (..., h, w)")


@check("crowds that are not trained on", "leave out the pixels of `panoptic_crowds`, as void")
def crowds(fixture: HeadFixture) -> None:
    """Crowds (`panoptic_crowds`) give the same losses as void pixels in their place."""
    fixture.require_labels()
    if "panoptic" not in fixture.required_targets:
        raise NotChecked("it does not learn panoptic maps")
    head, batch, other = _with_noise(fixture.build()), *(fixture.batch(images=(GRID, GRID)) for _ in range(2))
    for i, target in enumerate(batch.targets):
        ids = target["panoptic"]
        crowd = int(ids[ids != VOID].max())
        batch.targets[i] = {**target, "panoptic_crowds": [crowd]}
        other.targets[i] = {**target, "panoptic": torch.where(ids == crowd, VOID, ids)}
    _require_same(_losses(head, batch), _losses(head, other), "with crowds, against void in their place")


def _values(fixture: HeadFixture, per: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Yields each unlabelled value of the head's `required_targets`: key, text for messages, value."""
    target_types = {
        key: fixture.types[key] for key in fixture.required_targets if per is None or fixture.types[key].per == per
    }
    pairs = [
        (key, value)
        for key, target_type in target_types.items()
        if isinstance(target_type, SupportsUnlabelled)
        for value in target_type.unlabelled(GRID)
    ]
    if not pairs:
        raise NotChecked(
            f"{', '.join(fixture.required_targets)} cannot be unlabelled{' at single pixels' if per else ''}"
        )
    for key, value in pairs:
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


def _require_same(actual: dict[str, float], expected: dict[str, float], where: str) -> None:
    for name in actual.keys() & expected.keys():
        require(
            abs(actual[name] - expected[name]) <= TOLERANCE * max(abs(expected[name]), 1e-3),
            f"{name} = {actual[name]:.6g} {where}",
            f"{expected[name]:.6g}, as without it",
            _FIX,
        )


def _leaf(output: Any) -> Any:
    """Detaches a tensor that has a gradient to a leaf that requires one."""
    return output.detach().requires_grad_() if isinstance(output, Tensor) and output.requires_grad else output


def _is_map(x: Tensor, size: tuple[int, int]) -> bool:
    """Whether the last two dimensions are the grid (H, W) of the batch at some stride."""
    if x.ndim < 3 or min(x.shape[-2:]) < 2:
        return False
    rows, columns = size[0] / x.shape[-2], size[1] / x.shape[-1]
    return rows >= 1 and abs(rows - columns) < 1e-6
