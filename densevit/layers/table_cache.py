"""Tables that depend on a shape and a device alone, made once and kept."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT = 64  # tables; the oldest goes first

_KEPT: dict[Hashable, Tensor] = {}


def kept(make: Callable[..., Tensor], *arguments: Hashable) -> Tensor:
    """make(*arguments), from the second time on the very tensor that was made first: nobody may change it.

    make: a function at the top of a module that depends on nothing but its arguments, of which one is the device.
    While torch.compile or torch.export traces, the table is made within the graph. One that is made in inference mode
    serves training too.
    """
    if torch.compiler.is_compiling():
        return make(*arguments)
    key = (make, arguments)
    table = _KEPT.get(key)
    if table is None:
        with torch.inference_mode(False), torch.no_grad():
            table = make(*arguments)
        if type(table) is Tensor:  # no stand-in of a tracer
            if len(_KEPT) >= LIMIT:
                _KEPT.pop(next(iter(_KEPT)), None)
            _KEPT[key] = table
    return table
