"""Selections of the best candidates, such as a two-stage head's proposals, that can be recorded and repeated.

A selection is discontinuous: where two scores are nearly equal, two devices or file formats may select differently. To
compare the rest of a model on them, its selections are recorded on one and repeated on the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class Selection(NamedTuple):
    """scores: (B, S), of the candidates. indices: (B, N), the selected ones, by descending score."""

    scores: Tensor
    indices: Tensor


class _Recording:
    def __init__(self, repeated: Sequence[Tensor]) -> None:
        self.made: list[Selection] = []
        self.repeated = list(repeated)


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


def select_top(scores: Tensor, count: int) -> Tensor:
    """Indices (B, N) of the `count` highest of the scores (B, S), or of all if there are fewer."""
    return selected(scores, scores.topk(min(count, scores.shape[1]), dim=1).indices)


def selected(scores: Tensor, indices: Tensor) -> Tensor:
    """Indices (B, N) that were selected by the scores (B, S): recorded, or replaced by those to be repeated."""
    recording = _recording.get()
    if recording is None:
        return indices
    if recording.repeated:
        indices = recording.repeated.pop(0)
    recording.made.append(Selection(scores, indices))
    return indices


@contextmanager
def recorded(repeated: Sequence[Tensor] = ()) -> Iterator[list[Selection]]:
    """Records the selections within. repeated: indices to use for them, in their order."""
    recording = _Recording(repeated)
    token = _recording.set(recording)
    try:
        yield recording.made
    finally:
        _recording.reset(token)
