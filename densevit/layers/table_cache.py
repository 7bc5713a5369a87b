"""Cache of constant tables that depend only on a shape and a device, e.g. position encodings."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

LIMIT = 64  # tables; the oldest is evicted first

_CACHE: dict[Hashable, Tensor] = {}


def cached_table(make: Callable[..., Tensor], *arguments: Hashable) -> Tensor:
    """Returns make(*arguments), cached; the tensor is shared and must not be modified in place.

    make: a pure module-level function; one of its arguments is the device. Under torch.compile or torch.export the
    table is part of the graph. A table created in inference mode can be used in training.
    """
    if torch.compiler.is_compiling():
        return make(*arguments)
    key = (make, arguments)
    table = _CACHE.get(key)
    if table is None:
        with torch.inference_mode(False), torch.no_grad():
            table = make(*arguments)
        if type(table) is Tensor:  # not a FakeTensor or other tracing subclass
            if len(_CACHE) >= LIMIT:
                oldest, *_ = _CACHE  # at once: an iterator fails if another thread adds a table
                _CACHE.pop(oldest, None)
            _CACHE[key] = table
    return table
