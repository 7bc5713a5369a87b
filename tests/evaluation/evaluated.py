"""What an evaluator tells about its images."""

from densevit.interfaces import DEFAULT_THRESHOLD, Evaluator, Plot, Table


def tables_of(evaluator: Evaluator, threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
    return evaluator.tables(evaluator.records, threshold)


def plots_of(evaluator: Evaluator) -> dict[str, Plot]:
    return evaluator.plots(evaluator.records)


def image_scores_of(evaluator: Evaluator, threshold: float = DEFAULT_THRESHOLD) -> dict[int | str, float]:
    scores = zip(evaluator.ids, evaluator.image_scores(evaluator.records, threshold), strict=True)
    return {key: score for key, score in scores if score is not None}
