"""Selection of the best candidates, such as a two-stage head's proposals, that can be recorded and repeated.

A selection is discontinuous: where two scores are nearly equal, two devices or file formats may select differently. To
compare the rest of a model on them, its selections are recorded on one and repeated on the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn


class Selection(NamedTuple):
    """scores: (B, S), of the candidates. indices: (B, N), the selected ones, by descending score."""

    scores: Tensor
    indices: Tensor


class SelectTop(nn.Module):
    """Indices of the highest scores. A module without parameters, whose hooks record selections: see `recorded`."""

    def forward(self, scores: Tensor, count: int) -> Tensor:
        """Indices (B, N) of the `count` highest of the scores (B, S), or of all if there are fewer."""
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
