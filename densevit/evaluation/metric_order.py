"""The order of a metric's values: whether lower or higher is better. Evaluators declare their errors."""

from collections.abc import Collection, Mapping

from densevit.interfaces import Evaluator

SKIPPED_IMAGES = "skipped/images"
"""The number of images that a validation leaves out; no evaluator computes it."""


def error_metrics(evaluators: Mapping[str, Evaluator]) -> list[str]:
    """The metrics HEAD/METRIC of evaluators by head for which lower is better."""
    return [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.lower_is_better]


def sign(metric: str, errors: Collection[str]) -> int:
    """-1 if lower is better, else 1: of two values, the one with the larger product with the sign is better.

    metric: HEAD/METRIC, or the metric of a class, HEAD/METRIC/CLASS. errors: `error_metrics`.
    """
    return -1 if "/".join(metric.split("/")[:2]) in (SKIPPED_IMAGES, *errors) else 1
