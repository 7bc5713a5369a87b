"""Compilation by regions: `torch.compile` of the repeated blocks of a model, each kind of block once."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from types import FunctionType
from typing import Any

import torch
from torch import nn

LIMIT = 64  # compilations of one class: for widths and options of its blocks, sizes, training and evaluation


def compile_regions(parts: Iterable[nn.Module], **options: Any) -> None:
    """Compiles the repeated `regions` of the parts of a model in place, with options of `torch.compile`.

    Regions of one class share what is compiled. Sizes are dynamic from the first compilation on, so that images of
    other sizes need no second one. State dicts, copies and pickles are those of an uncompiled model.

    During a region's call, two settings of torch differ: the number of compilations after which it runs a function
    uncompiled is `LIMIT`, not 8, and sizes that are equal by chance, as those of a square image, are not taken to be
    one size.
    """
    config, shapes = torch._dynamo.config, torch.fx.experimental._config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    settings = (
        config._make_closure_patcher(**{limit: max(LIMIT, getattr(config, limit))}),
        shapes._make_closure_patcher(use_duck_shape=False),  # type: ignore[attr-defined]  # of all such modules
    )
    compiled: dict[type[nn.Module], Any] = {}
    for region in repeated([*chain.from_iterable(map(regions, parts))]):
        kind = type(region)
        if kind not in compiled:  # with a code object of its own: torch stores, searches and counts compilations by it
            code = _call.__code__.replace(co_name=f"{kind.__module__}.{kind.__qualname__}")
            compiled[kind] = torch.compile(FunctionType(code, _call.__globals__), **{"dynamic": True, **options})
        region._compiled_call_impl = partial(_with_settings, settings, compiled[kind], region)  # as `Module.compile`


def repeated(blocks: list[nn.Module]) -> list[nn.Module]:
    """The blocks worth compiling: their class and parameter shapes occur at least twice, and they have no convolutions.

    Torch takes the strides of saved maps of convolutions as numbers, and compiles their backward pass again for each
    size of images.
    """
    kinds = [(type(block), *(parameter.shape for parameter in block.parameters())) for block in blocks]
    counts = Counter(kinds)
    return [
        block
        for block, kind in zip(blocks, kinds, strict=True)
        if counts[kind] > 1 and all(parameter.ndim < _KERNEL for parameter in block.parameters())
    ]


def regions(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the blocks of a module: a backbone's block, an encoder layer, a decoder layer.

    A block is a child of an `nn.ModuleList`, `nn.ModuleDict` or `nn.Sequential` with two weight matrices or more. A
    child of which blocks inside hold at least half of the weights is a stage, and they are the regions. Modules with
    hooks are left out: a graph calls a hook only while it is traced.
    """
    for child in module.children():
        blocks = list(regions(child))
        if isinstance(module, _LISTS) and not isinstance(child, _LISTS):
            weights = _weights(child)
            if len(weights) > 1 and 2 * sum(chain(*map(_weights, blocks))) < sum(weights):
                blocks = [] if any(inner._forward_pre_hooks for inner in child.modules()) else [child]
        yield from blocks


_KERNEL = 4  # dimensions of the kernels of a 2d convolution
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _weights(module: nn.Module) -> list[int]:
    """The sizes of the weight matrices and kernels."""
    return [parameter.numel() for parameter in module.parameters() if parameter.ndim > 1]


def _with_settings(
    settings: Iterable[Callable[[], Any]], compiled: Any, region: nn.Module, *inputs: Any, **options: Any
) -> Any:
    """Calls a compiled region, which torch compiles in its first calls, with the settings."""
    if torch.compiler.is_compiling():  # a compilation of the model has the region in its graph
        return region._call_impl(*inputs, **options)
    with ExitStack() as restores:
        for change in settings:
            restores.callback(change())
        return compiled(region, *inputs, **options)


def _call(region: nn.Module, *inputs: Any, **options: Any) -> Any:
    return region._call_impl(*inputs, **options)
