"""A simulated accelerator: tensors with CPU values that report another device, and raise where devices mix.

`with Accelerator() as device:` makes `device.type` tensors by `x.to(device)` and by factory functions. Operations that
make the host wait for a real accelerator are counted in `waits`: transfers back, and results whose shape or control
flow depends on values.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from densevit.layers import table_cache

DEVICE = torch.device("meta")  # its operations need no hardware; no real tensor of it is created
_WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique_dim", "aten::_unique2",
    "aten::is_nonzero", "aten::equal", "aten::bincount",
}  # fmt: skip
_TRANSFERS = {"aten::_to_copy", "aten::copy_"}


class Remote(Tensor):
    """A tensor of the simulated accelerator."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "Remote":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            dtype=value.dtype,
            device=DEVICE,
            requires_grad=value.requires_grad,
        )
        made.value = value.detach()
        return made

    def tolist(self) -> Any:
        return self.value.tolist()  # equals `.cpu().tolist()`, which torch does not support for subclasses

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the accelerator outside of `with Accelerator()`")


class Accelerator(TorchDispatchMode):
    """`refused`: unsupported dtypes."""

    def __init__(self, *refused: torch.dtype) -> None:
        super().__init__()
        self.refused = refused
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "Accelerator":
        table_cache._CACHE.clear()  # other tests may have cached tables of the same device, meta
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        table_cache._CACHE.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        tensors = _tensors(args, kwargs)
        remote = [x for x in tensors if isinstance(x, Remote)]
        local = [x for x in tensors if not isinstance(x, Remote) and x.ndim]
        target = kwargs.get("device")
        if any(x.device == DEVICE for x in tensors if not isinstance(x, Remote)):
            raise RuntimeError(f"{func}: torch.tensor(..., device=...) copies from pageable memory and waits for it.")
        if name in _TRANSFERS:
            return self._transfer(func, name, args, kwargs)
        if remote and (local or (target is not None and torch.device(target) != DEVICE)):
            raise RuntimeError(
                f"{func}: tensors of the accelerator, {[tuple(x.shape) for x in remote]}, and of the CPU, "
                f"{[tuple(x.shape) for x in local]}, mix."
            )
        if not remote and (target is None or torch.device(target) != DEVICE):
            return func(*args, **kwargs)
        masked = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]
        )
        if name in _WAITING or masked or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None):
            self.waits[name] += 1
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        return self._wrapped(func, args, kwargs)

    def _transfer(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if name == "aten::copy_":
            destination, source = args[:2]
            if isinstance(source, Remote) and not isinstance(destination, Remote):
                self.waits["to the CPU"] += 1
            host(destination).copy_(host(source))
            return destination
        source, target = args[0], kwargs.get("device")
        target = source.device if target is None else torch.device(target)
        if isinstance(source, Remote) and target != DEVICE:
            self.waits["to the CPU"] += 1
        if target == DEVICE and not isinstance(source, Remote) and not kwargs.get("non_blocking"):
            self.waits["from pageable memory"] += 1
        kwargs["device"] = torch.device("cpu")
        moved = func(host(source), *args[1:], **kwargs)
        return self._made(moved) if target == DEVICE else moved

    def _wrapped(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = {id(x.value): x for x in _tensors(args, kwargs) if isinstance(x, Remote)}
        result = func(*map(_values, args), **{key: _values(x) for key, x in kwargs.items()})
        made = lambda x: given.get(id(x)) if id(x) in given else self._made(x)  # noqa: E731
        return type(result)(map(made, result)) if isinstance(result, list | tuple) else made(result)

    def _made(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.dtype in self.refused:
            raise TypeError(f"The accelerator has no {x.dtype}.")
        return Remote(x)


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors of an operation's arguments: ATen's are tensors and lists of tensors."""
    lists = (x if isinstance(x, list | tuple) else (x,) for x in (*args, *kwargs.values()))
    return [x for values in lists for x in values if isinstance(x, Tensor)]


def _values(x: Any) -> Any:
    """`host` of an argument, or of each of a list."""
    return type(x)(map(host, x)) if isinstance(x, list | tuple) else host(x)


def host(x: Any) -> Any:
    """The values of a tensor, without a transfer that counts; other values as they are."""
    return x.value if isinstance(x, Remote) else x


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the simulated accelerator, in place. Call it in its context."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(Remote(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Remote(buffer)
    return module
