"""Which epoch is the best: of one number, or of several heads together."""

import math
from collections.abc import Mapping
from typing import Any

from densevit.interfaces import Evaluator

_NEXT_TO_NOTHING = 0.1  # of a score that is a fraction: below it, what a score lacks of the best is counted of this


class BestEpoch:
    """Remembers the best validation, and says of each new one whether it is better.

    monitor: the metric that decides. None: the head's main metric. With several heads, an epoch is worth the mean of
    their `share`s: how near each head's main metric comes to the best that this head has reached until now, from 0 to
    1. The new epoch and the best one are held against the same such values, so neither a first epoch of nearly nothing
    nor one of huge errors tips the balance, as it would where metrics are divided by their first values.

    Errors (`Evaluator.lower_is_better`) are better when they are less. A metric that is not known is the worst; as long
    as none is known, the latest epoch counts as the best.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], monitor: str | None) -> None:
        self.errors = {
            f"{name}/{error}" for name, evaluator in evaluators.items() for error in evaluator.lower_is_better
        }
        self.decisive = [f"{name}/{evaluator.main}" for name, evaluator in evaluators.items()]
        if monitor is not None:
            self.decisive = [monitor]
        self.best: dict[str, float] | None = None  # the decisive metrics of the best epoch
        self.reached: dict[str, float] = {}  # by each metric, at its own best

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Takes a validation's metrics: whether it is the best until now, as the first one is."""
        new = {name: metrics[name] for name in self.decisive}
        for name, value in new.items():
            if math.isfinite(value) and (name not in self.reached or self._better(name, value, self.reached[name])):
                self.reached[name] = value
        if self.best is not None and self.reached and not self.beats(new, self.best):
            return False
        self.best = new
        return True

    def beats(self, new: dict[str, float], best: dict[str, float]) -> bool:
        """Whether an epoch's decisive metrics are better than another's."""
        if len(new) == 1:
            [(name, value)] = new.items()
            return not math.isnan(value) and (math.isnan(best[name]) or self._better(name, value, best[name]))
        return self._worth(new) > self._worth(best)

    def _better(self, name: str, value: float, other: float) -> bool:
        return value < other if name in self.errors else value > other

    def _worth(self, metrics: dict[str, float]) -> float:
        known = self.reached
        return math.fsum(share(metrics[name], known[name], name in self.errors) for name in known) / max(1, len(known))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": None if self.best is None else dict(self.best), "reached": dict(self.reached)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was when the checkpoint was written."""
        self.best = None if state["best"] is None else dict(state["best"])
        self.reached = dict(state["reached"])


def share(value: float, reached: float, is_error: bool = False) -> float:
    """How near a metric is to the best it has reached, 0 ... 1: 1 less their difference over the larger of the two.

    That is value / reached for scores, and reached / value for errors. Of scores, which are fractions, the larger is
    taken for a tenth at least: the ups and downs of a head that has learnt next to nothing decide nothing. 0 for a
    metric that is not known, or infinite.
    """
    if not math.isfinite(value):
        return 0.0
    larger = max(abs(value), abs(reached), 0.0 if is_error else _NEXT_TO_NOTHING)
    return 1.0 if value == reached else max(0.0, 1 - abs(value - reached) / larger)
