"""Lion (Chen et al. 2023): the sign of a momentum."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Sign of a momentum, with decoupled weight decay (Chen et al. 2023, algorithm 2).

    betas: the weights of the momentum in the update, and of the old momentum in the new one.
    cautious: leaves out elements whose update has another sign than the gradient (Liang et al. 2024).
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "cautious": cautious}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        update = gradient.lerp(momentum, group["betas"][0]).sign()
        if group["cautious"]:
            update *= update * gradient > 0
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
        momentum.lerp_(gradient, 1 - group["betas"][1])
