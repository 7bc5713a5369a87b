"""Contexts for calls that leave a module as they found it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_DICTS = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict)}  # parameters, hooks, ...


@contextmanager
def evaluation_mode(module: Any) -> Iterator[None]:
    """Within it, the module is in evaluation mode; afterwards each part of it has its former mode.

    Does not touch a module in evaluation mode, so that several threads may predict with it, nor what is no module.
    """
    modes = {part: part.training for part in module.modules()} if isinstance(module, nn.Module) else {}
    if not any(modes.values()):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            if part.training != training:
                part.train(training)  # which may set more than the mode
        for part, training in modes.items():
            part.training = training


@contextmanager
def unchanged(module: Any) -> Iterator[None]:
    """Within it, the module is in evaluation mode and has no gradients. Afterwards, also after an error, it is as
    before: tensors with their devices and dtypes, gradients, `requires_grad`, modes, hooks, and all other attributes.

    Copies buffers only; weights and gradients are kept by reference. Must not be entered by several threads. Does
    nothing for what is no module, such as an exported file.
    """
    if not isinstance(module, nn.Module):
        yield
        return
    attributes, contents = {}, {}
    for part in module.modules():
        attributes[part] = {**vars(part)}
        contents[part] = {name: {**x} for name, x in vars(part).items() if name in _DICTS and isinstance(x, dict)}
    parameters = [(x, x.data, x.grad, x.requires_grad) for x in module.parameters()]
    buffers = [(x, x.clone()) for x in module.buffers()]
    for parameter in module.parameters():
        parameter.grad = None  # moves and copies of the module leave them out
    try:
        with evaluation_mode(module):
            yield
    finally:
        for part, values in attributes.items():
            for name in vars(part).keys() - values.keys():
                del vars(part)[name]
            vars(part).update(values)
            for name, items in contents[part].items():
                vars(part)[name].clear()
                vars(part)[name].update(items)
        for parameter, data, gradient, requires_grad in parameters:
            parameter.data = data
            parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        for buffer, value in buffers:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
