"""Muon (Jordan et al. 2024; Liu et al. 2025): momentum, orthogonalised by Newton-Schulz iterations.

Unlike `torch.optim.Muon`, it also accepts convolution kernels, which benefit the most.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from densevit.grouping import grouped
from densevit.layers.fast.hardware import supports_bf16
from densevit.layers.precision import autocast_off, keep_state_types
from densevit_optimizers.torch_optimizers import AdamW, Decay

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
_ITERATIONS = 5
_WIDE = 2  # columns per row from which the iterations on x x^T are fewer multiply-adds
_MOMENTUM = 0.95
_RMS = 0.2  # of an update, as AdamW's (Liu et al. 2025, section 2.2), so that the same learning rates apply to both
_MIN_SIDE = 16  # rows and columns of a trained matrix
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_LAYERS = {"all": ("linear", "convolution"), "convolutions": ("convolution",)}  # by the option `matrices`


class Muon(AdamW):
    """Muon for the weights of linear and convolution layers, AdamW for all other parameters.

    Momentum is Nesterov's, and weight decay is decoupled. Trained are matrices with at least 16 rows and columns, but
    not those of grouped convolutions. A kernel (out, in, h, w) is treated as the matrix (out, in * h * w). Matrices of
    one shape are orthogonalised as a batch. The update equals that of `torch.optim.Muon` with
    `adjust_lr_fn="match_rms_adamw"`.

    matrices: the layers whose weights Muon trains; `convolutions` costs less for small batches on a CPU. Weights that
    are trained differently after a resume start without momentum.
    betas, eps: AdamW's.
    """

    elementwise = False

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: float = 1e-8,
        matrices: Literal["all", "convolutions"] = "all",
        *,
        gradient_scaling: bool = False,
    ) -> None:
        groups = [{"layer": None, **group} for group in params]
        super().__init__(groups, lr, weight_decay, betas, eps, gradient_scaling=gradient_scaling)
        self.defaults["matrices"] = matrices
        keep_state_types(self)  # the momentum is in fp32

    @staticmethod
    def group_options(layer: nn.Module, parameter: nn.Parameter) -> dict[str, Any]:
        """Returns the type of layer that has the parameter as its matrix: `linear`, `convolution` or None."""
        layer_type = None
        if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)) and getattr(layer, "groups", 1) == 1:
            rows = parameter.shape[0]
            if parameter is layer.weight and min(rows, parameter.numel() // rows) >= _MIN_SIDE:
                layer_type = "convolution" if isinstance(layer, _CONVOLUTIONS) else "linear"
        return {"layer": layer_type}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one optimiser step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups, layers = self.param_groups, _LAYERS[self.defaults["matrices"]]
        for group in groups:
            if group["layer"] in layers:
                self._update(group)
        self.param_groups = [group for group in groups if group["layer"] not in layers]
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if "momentum_buffer" in self.state.get(parameter, ()):  # of a run with other `matrices`
                self.state[parameter].clear()
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not trained:
            return
        momenta = [self._momentum(parameter) for parameter in trained]
        gradients = [parameter.grad.to(momentum.dtype) for parameter, momentum in zip(trained, momenta, strict=True)]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
        by_shape = grouped((parameter.shape, i) for i, parameter in enumerate(trained))
        for shape, indices in by_shape.items():
            x = torch.stack([updates[i] for i in indices]).flatten(2)  # (N, R, C)
            rate = group["lr"] * _RMS * max(x.shape[1:]) ** 0.5
            orthogonal = orthogonalised(x).reshape(-1, *shape).unbind()
            torch._foreach_add_([trained[i] for i in indices], orthogonal, alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state.clear()
            state["step"] = torch.zeros(())  # required by AdamW when it loads a state
            exact = torch.promote_types(parameter.dtype, torch.float32)
            state["momentum_buffer"] = torch.zeros_like(parameter, dtype=exact)
        return cast(Tensor, state["momentum_buffer"])


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
        if x.dtype == torch.float32 and x.shape[2] >= _WIDE * x.shape[1]:  # bf16 has too few digits for it
            x = torch.bmm(_factor(torch.bmm(x, x.mT)), x)
        else:
            for _ in range(_ITERATIONS):
                gram = torch.bmm(x, x.mT)
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.mT if tall else x


def _factor(gram: Tensor) -> Tensor:
    """The product of the factors by which the iterations multiply x from the left, from x x^T alone: (N, R, R).

    The factors are polynomials of x x^T, so they commute: x_k = p_k x gives x_k x_k^T = p_k x x^T p_k. For a kernel of
    3 x 3 this takes 0.4 of the iterations' multiply-adds.
    """
    factor = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _polynomial(gram)
        product = torch.bmm(factor, product)
    return product


def _polynomial(gram: Tensor) -> Tensor:
    """a I + b G + c G^2 of G = x x^T: an iteration multiplies x by it."""
    a, b, c = _COEFFICIENTS
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result
