"""The interface of evaluators."""

from collections.abc import Sequence
from typing import Any

from densevit.interfaces.data_types import Class, Plot, Predictions, Table, Targets
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.heads import Head

DEFAULT_THRESHOLD = 0.5
"""The score threshold of a model that has none from its validation."""


class Evaluator:
    """Accumulates predictions and computes metrics over the whole data set, not as a mean over batches.

    reads: the keys of predictions that it needs; a tuple of keys means one of them.
    main: the metric of `compute` that determines the best epoch.
    lower_is_better: the metrics of `compute` that are errors; for all others higher is better.
    partial: whether the head also predicts classes that are not evaluated (`densevit evaluate` on data with a part of
        the classes): objects of these classes are removed, and their pixels in maps have no class, which counts as
        wrong: 255 in `semantic`, -1 in `panoptic`.
    threshold: the score threshold from which objects count in `tables` and `image_scores`; None: they use none.
        Otherwise it is replaced by the model's own, so that they show what `predict` does; metrics do not use it.
    """

    reads: tuple[str | tuple[str, ...], ...] = ()
    main: str
    lower_is_better: tuple[str, ...] = ()
    partial: bool = False
    threshold: float | None = None

    def __init__(self, classes: Sequence[Class]) -> None:
        self.classes = tuple(classes)

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one ground truth per image, in original pixels. Repeated images count once.

        truths: the targets of the data set, unchanged, with `size` and `original_size`, both (h, w) of the image file.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is an Evaluator and must implement update(predictions, truths)."
        )

    def compute(self) -> dict[str, float]:
        """Returns the metrics over all updates, as fractions 0 ... 1 or metres.

        Also called before training, without any update, for the names of the metrics: values may then be nan or any
        number.
        """
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement compute().")

    def reset(self) -> None:
        """Clears all accumulated data."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement reset().")

    def state(self) -> Any:
        """Returns the accumulated data, picklable; processes exchange it before `compute`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def merge(self, states: Sequence[Any]) -> None:
        """Replaces the accumulated data by the states of all processes, including its own."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def prepare(self, head: Head, data: Dataset) -> None:
        """Called before each evaluation with the head and the data set. Default: accepts any.

        Raises ConfigError if the options do not allow evaluation of this head on this data; the message starts with the
        name of an option: "align is none, but ...".
        """

    def tables(self) -> dict[str, Table]:
        """Returns small tables by name, written to NAME-HEAD.csv in the run folder. Default: none.

        `densevit evaluate` prints them and the report shows them. "confusion" and "KIND-confusion" are shown as heat
        maps: a header with the class names after its first cell, then one row per ground truth class with its name and
        the count of each predicted class. In other tables, the first cell of a row is its name. Fractions are floats.
        """
        return {}

    def plots(self) -> dict[str, Plot]:
        """Returns plots by name, written to plots.json in the run folder and shown in the report. Default: none."""
        return {}

    def image_scores(self) -> dict[int | str, float]:
        """Returns a score of each image by id, higher is better. The report shows the best and the worst images.

        Written to images-HEAD.csv in the run folder. Images without a score are left out. Default: none.
        """
        return {}

    def score_threshold(self) -> float | None:
        """Returns the score threshold for predictions, derived from all updates. Default: None.

        The threshold of the best epoch of a training is saved with the model; `predict` uses it, evaluation does not.
        """
        return None

    def results(self) -> list[dict[str, Any]] | None:
        """Returns all predictions as entries of a COCO results file, if the task has this format, for `evaluate --out`.

        Predicted maps are written per image, without the evaluator.
        """
        return None
