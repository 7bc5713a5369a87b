"""Conditions under which probes are scored, too: corrupted validation images, and noise on their features."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from densevit.evaluation.metric_order import error_metrics
from densevit.interfaces import Evaluator
from densevit_probes.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from densevit_probes.noise import falls_with_noise, noised
from densevit_probes.probe import Condition, Probe

_NOISES = {f", noise {strength:g}": strength for strength in (0.5, 1.0, 2.0)}


def conditions_of(probes: Mapping[str, Probe], robustness: bool, noise: bool) -> dict[str, Condition]:
    """The conditions of options of `probe`, by what is added to the names of heads and probes."""
    conditions = {}
    for severity in SEVERITIES if robustness else ():
        changes = [partial(corrupted, corruption=name, severity=severity) for name in CORRUPTIONS]
        conditions[f", corruptions of severity {severity}"] = Condition(probes, changes=changes)
    for name, strength in _NOISES.items() if noise else ():
        conditions[name] = Condition(probes, features=partial(noised, strength=strength))
    return conditions


def insensitive_metrics(metrics: Mapping[str, float], main: Sequence[str], errors: Sequence[str]) -> tuple[str, ...]:
    """The main metrics that do not get worse as noise on the features grows, of those computed with noise."""
    names = []
    for metric in main:
        name, _, score = metric.partition("/")
        with_noise = {x: f"{name}{noise}/{score}" for noise, x in _NOISES.items()}
        if metrics.keys() >= {*with_noise.values()}:
            scores = {0.0: metrics[metric], **{x: metrics[noisy] for x, noisy in with_noise.items()}}
            names += [] if falls_with_noise(scores, metric in errors) else [metric]
    return tuple(names)


class MeanOverChanges(Evaluator):
    """The means of the metrics of several evaluators of the same images, such as those of corruptions.

    A record is the records of an image, so that resamples draw images, each with all its changes.
    """

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        super().__init__(evaluators[0].classes)
        self.evaluators, self.main = evaluators, evaluators[0].main
        self.lower_is_better = tuple(name.removeprefix("/") for name in error_metrics({"": evaluators[0]}))
        states = [evaluator.state() for evaluator in evaluators]
        self.merge([{key: [state[key] for state in states] for key in states[0] if all(key in x for x in states)}])

    def compute(self, records: Sequence[Sequence[Any]]) -> dict[str, float]:
        columns = zip(*records, strict=True) if records else [()] * len(self.evaluators)
        metrics = [evaluator.compute(column) for evaluator, column in zip(self.evaluators, columns, strict=True)]
        return {name: float(np.mean([x[name] for x in metrics])) for name in metrics[0]}
