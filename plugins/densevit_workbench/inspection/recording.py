"""Records the attention weights of any module without changing the module.

Fused kernels do not return the weights. While `recorded_attention` is active, torch passes each call of
`scaled_dot_product_attention`, `softmax` and `multi_head_attention_forward` to it, and the weights are recomputed from
query and key. Outside of this context nothing changes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from densevit_workbench.inspection.attention_layers import RecordedAttention

_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


@contextmanager
def recorded_attention(module: nn.Module) -> Iterator[list[RecordedAttention]]:
    """Yields a list that collects the attention inside `module`, named by the innermost computing module.

    Any softmax over the last of three or more axes is recorded as attention; three axes are (heads, Q, K) of the first
    image. Weights are on the module's device, detached.
    """
    recorder = _AttentionRecorder({id(part): (name, part) for name, part in module.named_modules()})
    handles = [
        register_module_forward_pre_hook(recorder.enter),
        register_module_forward_hook(recorder.leave, always_call=True),
    ]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer calls none of these functions
    try:
        with recorder:
            yield recorder.recorded
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()


class _AttentionRecorder(TorchFunctionMode):
    def __init__(self, names: dict[int, tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.names = names
        self.running: list[nn.Module] = []
        self.recorded: list[RecordedAttention] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if id(module) in self.names:
            self.running.append(module)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if id(module) in self.names and self.running:
            self.running.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.running and func is F.scaled_dot_product_attention:
            self._add(attention_weights(*args, **kwargs))
        elif self.running and func is F.multi_head_attention_forward:  # of nn.MultiheadAttention
            self._add(func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})[1])
        elif self.running and func in _SOFTMAX and _over_last_axis(*args, **kwargs):
            self._add(out)
        return out

    def _add(self, weights: Tensor | None) -> None:
        if weights is not None and weights.ndim >= 3:
            name, module = self.names[id(self.running[-1])]
            weights = weights.detach()
            self.recorded.append(RecordedAttention(name, module, weights[None] if weights.ndim == 3 else weights))


def _over_last_axis(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> bool:
    return dim is not None and dim % x.ndim == x.ndim - 1


def attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor | None = None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights (..., Q, K) of `scaled_dot_product_attention` with these arguments, without dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        is_bool = attn_mask.dtype is torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if is_bool else scores + attn_mask
    return scores.softmax(-1)
