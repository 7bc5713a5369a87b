"""The lowest scores of objects in files, and the origin of thresholds."""

from collections.abc import Mapping

from densevit.errors import DensevitError
from densevit.interfaces import DenseHead
from densevit.model import InferenceModel

_WINDOW_SCORE = 0.05  # of boxes merged from windows; each window adds as many as an image, most near 0


def lowest_scores(min_score: float | None, thresholds: Mapping[str, float], model: InferenceModel) -> dict[str, float]:
    """The lowest score of objects in all files, by head. min_score: --min-score."""
    if min_score is not None:
        return dict.fromkeys(thresholds, min_score)
    merged = {
        head
        for head, options in model.inference.items()
        if options.window is not None and not isinstance(model.heads[head], DenseHead)
    }
    return {head: min(score, _WINDOW_SCORE) if head in merged else 0.0 for head, score in thresholds.items()}


def check_lowest_score(lowest: float, threshold: float, origin: str) -> None:
    """Raises DensevitError if --min-score is above the threshold. origin: the threshold's, for the message."""
    if lowest > threshold:
        raise DensevitError(
            f"--min-score is {lowest:g}, above the threshold {threshold:.4g} ({origin}); at most the threshold is "
            "expected, as no file has objects below --min-score. Fix: lower --min-score, or raise --threshold."
        )


def threshold_origin(threshold: float | None, model: InferenceModel, head: str) -> str:
    """The origin of a head's threshold, as text. threshold: --threshold."""
    if threshold is not None:
        return "--threshold"
    if head in getattr(model, "thresholds", {}):
        return "the threshold inside the file; see --threshold"
    if head in model.score_thresholds:
        return "the largest F1 in the model's validation; see --threshold"
    return "the default, as the model has none from validation; see --threshold"
