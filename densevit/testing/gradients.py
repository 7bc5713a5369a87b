"""Checks of gradients: they reach what is trained, and two steps of training go well."""

import torch
from torch import Tensor, nn

from densevit.testing.results import Failure
from densevit.testing.subjects import BackboneSubject, Subject, weighted_sum

ATTEMPTS = 4  # stochastic depth may leave out a block in one run, not in all


def parameter_gradients(subject: Subject) -> str | None:
    """In training a gradient reaches every parameter that is trained."""
    return _reaches_all(subject, zero_is_dead=True)


def parameters_connected(subject: Subject) -> str | None:
    """In training the losses are connected to every parameter that is trained.

    A gradient that is exactly 0 is noted and no failure: DETR's queries begin as zeros, and the first values of its
    decoder's self-attention learn nothing by them.
    """
    return _reaches_all(subject, zero_is_dead=False)


def _reaches_all(subject: Subject, zero_is_dead: bool) -> str | None:
    module = subject.build()
    wake(module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    zero: list[str] = []
    for attempt in range(ATTEMPTS):
        subject.training_loss(module, attempt).backward()
        zero = [name for name, p in trained.items() if p.grad is None or not p.grad.any()]
        if not zero:
            break
    dead = zero if zero_is_dead else [name for name in zero if trained[name].grad is None]
    if dead:
        raise Failure(
            f"no gradient in {_listed(dead)}",
            "one in every parameter that requires it",
            "use it in forward, or leave it out; watch for detach(), .data and no_grad() on the way; what is to "
            "stay as it is gets requires_grad_(False)",
        )
    frozen = len(list(module.parameters())) - len(trained)
    notes = [f"a gradient of exactly 0 in {_listed(zero)}"] if zero else []
    notes += [f"{frozen} parameters are frozen"] if frozen else []
    return "; ".join(notes) or None


def image_gradients(subject: BackboneSubject) -> None:
    """The finest features see every pixel."""
    backbone = subject.build().eval()
    wake(backbone)
    images = subject.images(4).requires_grad_()
    features = backbone(images * 1.0)  # a backbone that writes into its input is the matter of another check
    (gradient,) = torch.autograd.grad(weighted_sum(features), images)
    unseen = ~gradient.ne(0).any(0).any(0)  # (H, W)
    if unseen.any():
        row, column = (int(x) for x in unseen.nonzero()[0])
        raise Failure(
            f"{int(unseen.sum())} of {unseen.numel()} pixels that no feature depends on, the first in row {row}, "
            f"column {column}",
            "features that depend on every pixel",
            "let kernels be at least as large as their strides; pad in place of cropping",
        )


def trains(subject: BackboneSubject) -> None:
    """Two steps of AdamW towards random maps: the loss and the weights stay finite."""
    backbone = subject.build().train()
    optimiser = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=1e-4)
    for step in (1, 2):
        features = backbone(subject.images(seed=step))
        loss = torch.stack([(x - torch.randn_like(x)).square().mean() for x in features]).sum()
        _check_finite(f"a loss of {float(loss)} at step {step}", loss)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for name, parameter in backbone.named_parameters():
            _check_finite(f"{name} not finite after step {step}", parameter)


def wake(module: nn.Module) -> None:
    """Moves every trained parameter off where it starts: behind a residual scale of 0 all gradients are 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter))


def _check_finite(what: str, x: Tensor) -> None:
    if not x.isfinite().all():
        raise Failure(
            what,
            "finite numbers",
            "normalise inside blocks; give sqrt, log and divisions an eps; no masked_fill with -inf over a whole row",
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
