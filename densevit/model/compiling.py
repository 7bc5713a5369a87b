"""Compilation by regions: `torch.compile` of the repeated blocks of a model, each kind of block once."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import nn

LIMIT = 64  # compilations of one kind of block: widths and options of its layers, sizes, training and evaluation


def compile_regions(parts: Iterable[nn.Module], **options: Any) -> None:
    """Compiles the `regions` of a model's parts in place, with options of `torch.compile`. State dicts and copies are
    those of an uncompiled model.

    Regions of one class share what is compiled. Raises the limit at which torch stops compiling, 8 for a function, in
    this process: silently, it would run blocks uncompiled.
    """
    torch._dynamo.config.recompile_limit = max(LIMIT, torch._dynamo.config.recompile_limit)
    compiled: dict[type[nn.Module], Any] = {}
    for region in chain.from_iterable(map(regions, parts)):
        kind = type(region)
        if kind not in compiled:
            # torch counts compilations for each code object, and searches among those of a code object at each call.
            code = _call.__code__.replace(co_name=kind.__name__)
            compiled[kind] = torch.compile(FunctionType(code, _call.__globals__), **options)
        region._compiled_call_impl = partial(compiled[kind], region)  # type: ignore[assignment]  # as `Module.compile`


def regions(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the blocks of a module: a backbone's block, an encoder layer, a decoder layer.

    A block is a child of an `nn.ModuleList`, `nn.ModuleDict` or `nn.Sequential` with two weight matrices or more, of which blocks inside
    hold less than half; of a stage, they hold more.
    """
    for child in module.children():
        blocks = list(regions(child))
        if isinstance(module, _LISTS) and not isinstance(child, _LISTS):
            weights = _weights(child)
            if len(weights) > 1 and 2 * sum(sum(_weights(block)) for block in blocks) < sum(weights):
                blocks = [child]
        yield from blocks


_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _weights(module: nn.Module) -> list[int]:
    """The sizes of the weight matrices and kernels."""
    return [parameter.numel() for parameter in module.parameters() if parameter.ndim > 1]


def _call(region: nn.Module, *inputs: Any, **options: Any) -> Any:
    return region._call_impl(*inputs, **options)
