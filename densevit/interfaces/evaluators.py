"""The interface of evaluators."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, cast

from densevit.interfaces.data_types import Classes, Plot, Predictions, Table, Targets, as_classes
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.heads import Head

DEFAULT_THRESHOLD = 0.5
"""The score threshold of a model without one from validation."""


class Evaluator:
    """Accumulates predictions and computes metrics over the data set, not as a mean over batches.

    reads: the keys of predictions that it needs; a tuple of keys means any of these.
    main: the metric of `compute` that determines the best epoch.
    lower_is_better: the metrics of `compute` that are errors; for all others higher is better.
    partial: whether the head also predicts classes that are not evaluated (`densevit evaluate` on data with fewer
        classes): objects of these classes are removed, and their pixels in maps have no class, which counts as wrong:
        255 in `semantic`, -1 in `panoptic`.
    threshold: the score threshold for objects in `tables` and `image_scores`; None: not used. The model's threshold
        replaces it, so that they show what `predict` does; metrics do not use it.
    version: the version of the metrics, raised when they are computed in another way.
    by_image: the attribute with the results of each image by id, all that `compute` reads; None: `contributions` and
        `resampled` are implemented, or there are no intervals.
    keeps_images: whether contributions of single images are kept, for an evaluator that otherwise only keeps sums.

    Example:
        >>> class Objects(densevit.Evaluator):
        ...     main, count = "objects", 0
        ...     def update(self, predictions, truths): self.count += sum(len(p["boxes"]) for p in predictions)
        ...     def compute(self): return {"objects": self.count}
        >>> Objects(classes=[]).compute()
        {'objects': 0}
    """

    reads: tuple[str | tuple[str, ...], ...] = ()
    main: str
    lower_is_better: tuple[str, ...] = ()
    partial: bool = False
    threshold: float | None = None
    version: int = 1
    by_image: str | None = None
    keeps_images: bool = False

    def __init__(self, classes: Classes) -> None:
        self.classes = as_classes(classes)

    def update(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> None:
        """Adds one prediction and one ground truth per image, in original pixels. Repeated images count once.

        truths: the targets of the data set, unchanged, with `size` and `original_size`, both (h, w) of the image file.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is an Evaluator and must implement update(predictions, truths)."
        )

    def compute(self) -> dict[str, float]:
        """The metrics over all updates, as fractions 0 ... 1 or metres.

        Also called before training, without any update, for the names of the metrics: values may then be nan or any
        number.
        """
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement compute().")

    def reset(self) -> None:
        """Clears all accumulated data."""
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement reset().")

    def state(self) -> Any:
        """The accumulated data, picklable; processes exchange it before `compute`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def merge(self, states: Sequence[Any]) -> None:
        """Replaces the accumulated data by the states of all processes, including this one."""
        raise NotImplementedError(
            f"{type(self).__name__} needs state() and merge(states) to evaluate on several processes."
        )

    def contributions(self) -> Mapping[int | str, Any]:
        """What each image contributes to the metrics, by id; {} if there are no intervals."""
        return cast(Mapping[int | str, Any], getattr(self, self.by_image)) if self.by_image else {}

    def resampled(self, contributions: Iterable[Any]) -> "Evaluator":
        """A copy that has seen the images of these contributions; a repeated image counts each time."""
        sample = copy(self)
        setattr(sample, str(self.by_image), dict(enumerate(contributions)))
        return sample

    def prepare(self, head: Head, data: Dataset) -> None:
        """Called before each evaluation with the head and the data set. Default: accepts any.

        Raises ConfigError if the options do not allow evaluation of this head on this data; the message starts with the
        name of an option: "align is none, but ...".
        """

    def tables(self) -> dict[str, Table]:
        """Small tables by name, written to NAME-HEAD.csv in the run folder. Default: none.

        `densevit evaluate` prints them, and the report shows them. "confusion" and "KIND-confusion" become heat maps: a
        header with the class names after its first cell, then one row per ground truth class with its name and the
        count of each predicted class. In other tables, the first cell of a row is its name. Fractions are floats.
        """
        return {}

    def plots(self) -> dict[str, Plot]:
        """Plots by name, written to plots.json in the run folder and shown in the report. Default: none."""
        return {}

    def image_scores(self) -> dict[int | str, float]:
        """A score of each image by id, higher is better. The report shows the best and the worst images.

        Written to images-HEAD.csv in the run folder. Leave out images without a score. Default: none.
        """
        return {}

    def score_threshold(self) -> float | None:
        """The score threshold for predictions, derived from all updates. Default: None.

        Each validation in training sets the model's; `predict` uses it, evaluation does not.
        """
        return None

    def results(self) -> list[dict[str, Any]] | None:
        """All predictions as entries of a COCO results file, for `evaluate --out`; None for tasks without this format.

        `evaluate` writes predicted maps per image, without the evaluator.
        """
        return None
