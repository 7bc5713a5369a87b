"""Intervals of metrics by the bootstrap over images (Efron 1979)."""

import warnings

import numpy as np

from densevit.interfaces import Evaluator


def bootstrap_intervals(
    evaluator: Evaluator, resamples: int, generator: np.random.Generator, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each metric that holds `level` of the resamples of the images.

    A resample has as many images as the evaluator, drawn with replacement. Resamples in which a metric is undefined do
    not count; nan where all are, and without images. The intervals depend neither on the order of the images nor on
    the number of processes.
    """
    records = evaluator.records
    draws = generator.integers(max(1, len(records)), size=(resamples, len(records))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of `compute`, and of columns that are all nan
        samples = [evaluator.compute([records[i] for i in sorted(drawn)]) for drawn in draws]
        bounds = np.nanquantile([[*x.values()] for x in samples], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(samples[0], *bounds, strict=True)}
