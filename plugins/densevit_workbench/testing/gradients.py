"""Checks that gradients reach all trained parameters and all pixels, and that two training steps stay finite."""

import torch
from torch import nn

from densevit_workbench.testing.check_results import check, require
from densevit_workbench.testing.fixtures import BackboneFixture, Fixture, weighted_sum

ATTEMPTS = 4  # runs: stochastic depth may drop a block in any single run
_FINITE = "normalise inside blocks; add an eps to sqrt, log and divisions; no masked_fill with -inf in a complete row"


@check("a gradient in every parameter", "do not detach")
def parameter_gradients(fixture: Fixture) -> str:
    """Every trained parameter gets a gradient.

    A head's gradient may be exactly 0, which is noted: DETR's queries start as zeros, so the first value projection of
    the decoder's self-attention gets none.
    """
    module = fixture.build()
    perturb(module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    zero: list[str] = []
    for attempt in range(ATTEMPTS):
        fixture.training_loss(module, attempt).backward()
        zero = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
        if not zero:
            break
    missing = zero if fixture.group == "backbones" else [name for name in zero if trained[name].grad is None]
    require(
        not missing,
        f"no gradient in {listed(missing)}",
        "a gradient in every parameter that requires one",
        "use the parameter in forward, or remove it; look for detach(), .data and no_grad(); freeze parameters with "
        "requires_grad_(False)",
    )
    frozen = len(list(module.parameters())) - len(trained)
    notes = {f"a gradient of exactly 0 in {listed(zero)}": zero, f"{frozen} parameters are frozen": frozen}
    return "; ".join(note for note, applies in notes.items() if applies)


@check("a gradient in every pixel", "do not detach")
def image_gradients(fixture: BackboneFixture) -> None:
    """The features depend on every pixel."""
    backbone = fixture.build().eval()
    perturb(backbone)
    images = fixture.images(4).requires_grad_()
    features = backbone(images * 1.0)  # a copy: `input_unchanged` checks for in-place changes
    (gradient,) = torch.autograd.grad(weighted_sum(features), images)
    unused = ~gradient.ne(0).any(0).any(0)  # (H, W)
    first = unused.nonzero()[:1].flatten().tolist()
    require(
        not first,
        f"{int(unused.sum())} of {unused.numel()} pixels that no feature depends on, the first at row, column {first}",
        "features that depend on every pixel",
        "use kernels at least as large as their strides; pad instead of cropping",
    )


@check("two training steps", "do not modify tensors in place that a gradient needs")
def trains(fixture: BackboneFixture) -> None:
    """Loss and parameters stay finite in two steps of AdamW on random regression targets."""
    backbone = fixture.build().train()
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=1e-4)
    for step in (1, 2):
        features = backbone(fixture.images(seed=step))
        loss = torch.stack([(x - torch.randn_like(x)).square().mean() for x in features]).sum()
        require(loss.isfinite(), f"a loss of {float(loss)} at step {step}", "finite numbers", _FINITE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in backbone.named_parameters():
            require(p.isfinite().all(), f"{name} not finite after step {step}", "finite numbers", _FINITE)


def perturb(module: nn.Module) -> None:
    """Adds noise to every trained parameter, because a zero residual scale makes all gradients of its branch 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))


def listed(names: list[str], limit: int = 6) -> str:
    """The first names, and the number of further names."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
