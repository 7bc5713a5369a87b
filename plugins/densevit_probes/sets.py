"""Scores of backbones over several data sets: means and mean ranks, with intervals over sets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from densevit.evaluation.metric_order import sign
from densevit_probes.probing import RESAMPLES, ProbeResult


def over_sets(results: Mapping[str, Sequence[ProbeResult]]) -> list[ProbeResult]:
    """The result of each backbone over data sets: the mean of each metric that all sets have, and of main metrics the
    mean rank, with 95 % bootstrap intervals over sets if there are several.

    A rank is 1 for the best backbone; equal ones share the mean of their ranks, and undefined ones are last. Sets that
    lack the result of a backbone are left out; [] if none is left.

    results: results by set. A metric KNN/MIOU of a set is KNN, SET/MIOU, too; configs are by set.
    """
    names = dict.fromkeys(result.backbone for scored in results.values() for result in scored)
    sets = {label: {x.backbone: x for x in scored} for label, scored in results.items() if len(scored) == len(names)}
    combined = []
    for name in names if sets else ():
        by_set = {label: by_name[name] for label, by_name in sets.items()}
        first, *rest = by_set.values()
        columns = {
            m: [x.metrics[m] for x in by_set.values()] for m in first.metrics if all(m in x.metrics for x in rest)
        }
        main = [metric for metric in first.main if metric in columns]
        ranks = {f"{m}, mean rank": [_rank(name, m, by_name) for by_name in sets.values()] for m in main}
        metrics, intervals = dict[str, float | None](), dict[str, tuple[float, float]]()
        for metric, column in {**columns, **ranks}.items():
            values = np.array(column, float)
            metrics[metric] = None if np.isnan(values).any() else float(values.mean())
            if len(sets) > 1 and metrics[metric] is not None:
                draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
                low, high = np.quantile(values[draws].mean(1), (0.025, 0.975)).tolist()
                intervals[metric] = (low, high)
        for label, result in by_set.items():
            placed = {metric: metric.replace("/", f", {label}/", 1) for metric in result.metrics}
            metrics |= {placed[metric]: value for metric, value in result.metrics.items()}
            intervals |= {placed[metric]: bounds for metric, bounds in result.intervals.items()}
        combined.append(
            replace(
                first,
                metrics=metrics,
                intervals=intervals,
                main=(*main, *ranks),
                error_metrics=(*first.error_metrics, *ranks),
                config={label: result.config for label, result in by_set.items()},
                seconds=sum(result.seconds for result in by_set.values()),
                insensitive=tuple(m for m in main if any(m in result.insensitive for result in by_set.values())),
            )
        )
    return combined


def _rank(name: str, metric: str, results: Mapping[str, ProbeResult]) -> float:
    """The rank of a backbone on a set."""
    direction = sign(metric, results[name].error_metrics)
    values = {x: result.metrics[metric] for x, result in results.items()}
    scores = {x: -np.inf if value is None else direction * value for x, value in values.items()}
    better = sum(score > scores[name] for score in scores.values())
    return better + (1 + sum(score == scores[name] for score in scores.values())) / 2
