"""Selection of the best candidates, such as a two-stage head's proposals, that can be recorded and repeated.

A selection is discontinuous: if two scores are nearly equal, two devices or file formats may select differently. To
compare the rest of a model, the selections are recorded on one device and repeated on the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


class Selection(NamedTuple):
    """scores: (B, S), of all candidates. indices: (B, N), of the selected candidates, by descending score."""

    scores: Tensor
    indices: Tensor


class SelectTop(nn.Module):
    """Selects the highest scores. A module without parameters, so that hooks can record selections: see `recorded`."""

    def forward(self, scores: Tensor, count: int) -> Tensor:
        """Returns the indices (B, N) of the `count` highest of the scores (B, S), or of all if there are fewer."""
        return scores.topk(min(count, scores.shape[1]), dim=1).indices


@contextmanager
def recorded(module: nn.Module, repeated: Sequence[Tensor] = ()) -> Iterator[list[Selection]]:
    """Records the selections of all `SelectTop` in a module. repeated: indices to use for them, in their order."""
    selections, indices = list[Selection](), list(repeated)

    def record(_: nn.Module, arguments: tuple[Any, ...], selected: Tensor) -> Tensor:
        selected = indices.pop(0) if indices else selected
        selections.append(Selection(arguments[0], selected))
        return selected

    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, SelectTop):
                hooks.callback(part.register_forward_hook(record).remove)
        yield selections
