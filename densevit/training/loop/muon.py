"""Muon (Jordan et al. 2024; Liu et al. 2025): momentum, orthogonalised by Newton-Schulz iterations.

Unlike `torch.optim.Muon`, it also accepts convolution kernels, which benefit the most.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from densevit.layers.fast.hardware import supports_bf16
from densevit.layers.precision import autocast_off

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
_ITERATIONS = 5
_MOMENTUM = 0.95
_RMS = 0.2  # of an update, as AdamW's (Liu et al. 2025, section 2.2), so that the same learning rates apply to both


class Muon(torch.optim.AdamW):
    """Muon for the parameter groups with `muon: True`, with Nesterov momentum and decoupled weight decay; AdamW for the
    others.

    A kernel (out, in, h, w) is treated as the matrix (out, in * h * w). Matrices of one shape are orthogonalised as a
    batch. The update equals that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **options: Any) -> None:
        """params: parameter groups. options: the other options of AdamW."""
        super().__init__([{"muon": False, **group} for group in params], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one optimiser step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group["muon"]:
                self._update(group)
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                rows = parameter.shape[0]
                shape = (rows, parameter.numel() // rows)
                by_shape.setdefault(shape, []).append((parameter, parameter.grad))
        for (rows, columns), trained in by_shape.items():
            updates = []
            for parameter, gradient in trained:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # required by AdamW when it loads a state
                    exact = torch.promote_types(parameter.dtype, torch.float32)
                    state["momentum_buffer"] = torch.zeros_like(parameter, dtype=exact)
                gradient = gradient.to(state["momentum_buffer"].dtype)
                state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
                updates.append(gradient.lerp(state["momentum_buffer"], _MOMENTUM).flatten(1))
            rate = group["lr"] * _RMS * max(rows, columns) ** 0.5
            for (parameter, _), update in zip(trained, orthogonalised(torch.stack(updates)), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter).to(parameter.dtype), alpha=-rate)


def orthogonalised(x: Tensor) -> Tensor:
    """Approximates U V^T of x = U S V^T, with singular values of about 0.7 to 1.2. x: (N, R, C).

    Returns bf16, as `torch.optim.Muon`, if the hardware supports it, else fp32.
    """
    a, b, c = _COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    with autocast_off(x.device):
        x = x.to(torch.bfloat16 if supports_bf16(x.device.type) else torch.float32)
        if tall:
            x = x.mT
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(_ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x
