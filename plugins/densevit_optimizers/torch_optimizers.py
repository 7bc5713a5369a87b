"""Optimisers of torch, with its fused kernels, which update all parameters of a group at once.

Fused kernels are not compatible with the scaling of gradients in fp16.
"""

from typing import Annotated, Any

import torch
from pydantic import Field

Decay = Annotated[float, Field(ge=0, lt=1)]


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        *,
        gradient_scaling: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, fused=not gradient_scaling)


class Adam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        *,
        gradient_scaling: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, fused=not gradient_scaling)


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: Decay = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        *,
        gradient_scaling: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, fused=not gradient_scaling)
