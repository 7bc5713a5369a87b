"""Selection of the best epoch by one metric, or by the main metrics of several heads."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from densevit.evaluation.metric_order import error_metrics, sign
from densevit.interfaces import Evaluator

_MIN_SCALE = 0.1  # lower bound of the denominator in `share` for scores, which are fractions


class BestEpoch:
    """Keeps the metrics of the best epoch and compares each new epoch with it.

    evaluators: the heads' evaluators. monitor: the metric to compare; None: the main metric of each head. With several
    heads, the value of an epoch is the mean of `share` over the heads: the main metric relative to its best value so
    far, from 0 to 1. Both epochs are compared relative to the same values, so a very poor first epoch does not
    dominate, as it would if metrics were divided by their first values.

    stale: the number of validations since the best epoch.

    Lower is better for errors (`metric_order`). NaN is the worst value. Without evaluators, or while all metrics are
    NaN, the latest epoch is the best.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], monitor: str | None) -> None:
        self.errors = error_metrics(evaluators)
        mains = (f"{name}/{evaluator.main}" for name, evaluator in evaluators.items())
        self.monitored = [*mains] if monitor is None else [monitor]
        self.best: dict[str, float] | None = None  # the monitored metrics of the best epoch
        self.reached: dict[str, float] = {}  # the best value of each monitored metric
        self.stale = 0

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Adds the metrics of a validation. Returns whether they are the best so far."""
        new = {name: metrics[name] for name in self.monitored}
        for name, value in new.items():
            if math.isfinite(value) and (name not in self.reached or self._better(name, value, self.reached[name])):
                self.reached[name] = value
        if self.best is not None and self.reached and not self.beats(new, self.best):
            self.stale += 1
            return False
        self.best, self.stale = new, 0
        return True

    def exhausts(self, patience: int | None) -> bool:
        """Whether training stops, after `patience` validations without improvement."""
        return patience is not None and self.stale >= patience

    def beats(self, new: dict[str, float], best: dict[str, float]) -> bool:
        """Whether the monitored metrics of an epoch are better than the best epoch's."""
        if len(new) == 1:
            [(name, value)] = new.items()
            return not math.isnan(value) and (math.isnan(best[name]) or self._better(name, value, best[name]))
        return self._value(new) > self._value(best)

    def _better(self, name: str, value: float, other: float) -> bool:
        return sign(name, self.errors) * (value - other) > 0

    def _value(self, metrics: dict[str, float]) -> float:
        best = self.reached
        return math.fsum(share(metrics[name], best[name], sign(name, self.errors) < 0) for name in best) / max(
            1, len(best)
        )

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return copy.deepcopy({"best": self.best, "reached": self.reached, "stale": self.stale})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from a checkpoint."""
        self.best, self.reached, self.stale = copy.deepcopy([state[key] for key in ("best", "reached", "stale")])


def share(value: float, reached: float, is_error: bool = False) -> float:
    """A metric relative to its best value so far, in [0, 1]: 1 - |value - reached| / max(|value|, |reached|).

    Equals value / reached for scores and reached / value for errors. For scores the denominator is at least 0.1, so
    that noise in a head with scores near zero has little influence. Returns 0 for NaN or infinity.
    """
    if not math.isfinite(value):
        return 0.0
    larger = max(abs(value), abs(reached), 0.0 if is_error else _MIN_SCALE)
    return 1.0 if value == reached else max(0.0, 1 - abs(value - reached) / larger)
