"""The interface of evaluators."""

import itertools
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from densevit.constructor_call import Recorded
from densevit.errors import DataError
from densevit.interfaces.data_types import Classes, Plot, Predictions, Table, Targets, as_classes, image_id
from densevit.interfaces.datasets import Dataset
from densevit.interfaces.heads import Head
from densevit.losses.distributed import process_rank

DEFAULT_THRESHOLD = 0.5
"""The score threshold of a model without one from validation."""
_ids = itertools.count()  # of images without an id, in this process


class Evaluator(Recorded):
    """Metrics of a data set, computed from a record of each image, not as a mean over batches.

    Subclasses implement `record` and `compute`. This class keeps the records by image id, merges them over processes,
    and resamples them for intervals.

    reads: the keys of predictions that it needs; a tuple of keys means any of these.
    truth_key: the key of a ground truth that `update` gets alone, without a dict; by default that of `reads`.
    main: the metric of `compute` that determines the best epoch.
    lower_is_better: the metrics of `compute` that are errors; for all others higher is better.
    uses_threshold: whether `tables` and `image_scores` use the score threshold.
    version: the version of the metrics, raised when they are computed in another way.

    Example:
        >>> class Objects(densevit.Evaluator):
        ...     main = "objects"
        ...     def record(self, prediction, truth): return len(prediction["boxes"])
        ...     def compute(self, records): return {"objects": sum(records)}
        >>> Objects(classes=[]).metrics()
        {'objects': 0}
    """

    reads: tuple[str | tuple[str, ...], ...] = ()
    truth_key: str | None = None
    main: str
    lower_is_better: tuple[str, ...] = ()
    uses_threshold: bool = False
    version: int = 1
    _records: dict[int | str, Any]
    _sorted: Sequence[Any] | None

    def __init__(self, classes: Classes) -> None:
        self.classes = as_classes(classes)
        self.reset()

    def record(self, prediction: Predictions, truth: Targets) -> Any:
        """What the metrics need of an image, picklable and small: sums where an image is large. None: an image without
        labels, which does not count.

        Both are in original pixels, on any device. truth: the target of the data set, unchanged, with `size` and
        `original_size`, both (h, w) of the image file.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is an Evaluator and must implement record(prediction, truth)."
        )

    def compute(self, records: Sequence[Any]) -> dict[str, float]:
        """The metrics of images, as fractions 0 ... 1 or metres, from their records.

        Also called without records, for the names of the metrics: values may then be nan or any number. Must depend on
        nothing but the records and the options: intervals are computed from resampled records.
        """
        raise NotImplementedError(f"{type(self).__name__} is an Evaluator and must implement compute(records).")

    def prepare(self, head: Head, data: Dataset) -> None:
        """Called before each evaluation with the head and the data set. Default: accepts any.

        Raises ConfigError if the options do not allow evaluation of this head on this data; the message starts with the
        name of an option: "align is none, but ...".
        """

    def tables(self, records: Sequence[Any], threshold: float = DEFAULT_THRESHOLD) -> dict[str, Table]:
        """Small tables by name, written to NAME-HEAD.csv in the run folder. Default: none.

        threshold: the model's score threshold, so that tables show what `predict` does; metrics do not use it.

        `densevit evaluate` prints them, and the report shows them. "confusion" and "KIND-confusion" become heat maps: a
        header with the class names after its first cell, then one row per ground truth class with its name and the
        count of each predicted class. In other tables, the first cell of a row is its name. Fractions are floats.
        """
        return {}

    def plots(self, records: Sequence[Any]) -> dict[str, Plot]:
        """Plots by name, written to plots.json in the run folder and shown in the report. Default: none."""
        return {}

    def image_scores(self, records: Sequence[Any], threshold: float = DEFAULT_THRESHOLD) -> Sequence[float | None]:
        """A score of each record, higher is better; None: without a score. The report shows the best and the worst
        images. Default: none. threshold: the model's (`tables`)."""
        return [None] * len(records)

    def score_threshold(self, records: Sequence[Any]) -> float | None:
        """The score threshold for predictions, derived from the records. Default: None.

        Each validation in training sets the model's; `predict` uses it, evaluation does not.
        """
        return None

    def entries(self, record: Any) -> list[dict[str, Any]] | None:
        """The predictions of an image as entries of a COCO results file, without `image_id`, for `evaluate --out`; None
        for tasks without this format.

        `evaluate` writes predicted maps per image, without the evaluator.
        """
        return None

    # ---- not overridden ----

    def update(self, predictions: Iterable[Any], truths: Iterable[Any]) -> None:
        """Adds the record of each image (`record`). An image added before, by its `image_id`, is ignored; without
        `image_id` it is a new image.

        predictions, truths: one dict per image; for maps also the maps alone, such as tensors (B, H, W), and for
        `Classification` scores (B, K) and class indices (B,). Raises DataError for a prediction that lacks a key of
        `reads`.
        """
        new: dict[int | str, tuple[Predictions, Targets]] = {}
        truth_keys = (self.truth_key,) if self.truth_key else self.reads
        for predicted, labels in zip(predictions, truths, strict=True):
            prediction, truth = self._named(predicted, self.reads), self._named(labels, truth_keys)
            if "image_id" not in truth:
                # In the order of calls, and unique over the evaluators, copies and processes that may be merged.
                truth["image_id"] = f"{process_rank()}/{next(_ids):09}/{secrets.token_hex(8)}"
            if (key := image_id(truth)) not in self._records:
                self._check(key, prediction)
                new.setdefault(key, (prediction, truth))
        if new:
            records = self.batch_records(*([*side] for side in zip(*new.values(), strict=True)))
            self._records.update((key, x) for key, x in zip(new, records, strict=True) if x is not None)
            self._sorted = None

    def _named(self, values: Any, reads: Sequence[str | tuple[str, ...]]) -> dict[str, Any]:
        if isinstance(values, Mapping):
            return {**values}
        keys = ["/".join([key] if isinstance(key, str) else key) for key in reads]
        if len(keys) != 1:
            raise DataError(
                f"a {type(values).__name__} is given for an image; a dict with {', '.join(keys)} is expected."
            )
        return {keys[0].partition("/")[0]: values}

    def _check(self, image_id: int | str, prediction: Predictions) -> None:
        for keys in self.reads:
            names = [keys] if isinstance(keys, str) else keys
            if prediction.keys().isdisjoint(names):
                missing = " and no ".join(f"`{name}`" for name in names)
                raise DataError(
                    f"image {image_id}: its prediction has no {missing}, only {', '.join(prediction) or 'nothing'}."
                )

    def batch_records(self, predictions: Sequence[Predictions], truths: Sequence[Targets]) -> Sequence[Any]:
        """`record` of several images; overridden where one transfer from a device serves all."""
        return [self.record(*pair) for pair in zip(predictions, truths, strict=True)]

    @property
    def records(self) -> Sequence[Any]:
        """The records of all images, sorted by image id, numbers before strings, so that metrics depend neither on
        batches nor on processes. The same object until images are added."""
        if self._sorted is None:
            order = sorted(self._records, key=lambda key: (isinstance(key, str), key))
            self._records = {key: self._records[key] for key in order}
            self._sorted = (*self._records.values(),)
        return self._sorted

    @property
    def ids(self) -> list[int | str]:
        """The image ids of `records`."""
        return [*self._records] if self.records else []

    def metrics(self) -> dict[str, float]:
        """`compute` of all images."""
        return self.compute(self.records)

    def results(self) -> list[dict[str, Any]] | None:
        """All predictions as entries of a COCO results file; None for tasks without this format."""
        images = [(key, self.entries(record)) for key, record in zip(self.ids, self.records, strict=True)]
        if all(entries is None for _, entries in images):
            return None
        return [{"image_id": key, **entry} for key, entries in images for entry in entries or ()]

    def reset(self) -> None:
        """Removes all images."""
        self.kept: dict[Any, tuple[Sequence[Any], Any]] = {}  # the last result of methods (`once_per_records`)
        self._records, self._sorted = {}, None

    def state(self) -> dict[int | str, Any]:
        """The records by image id, which processes exchange."""
        return self._records

    def merge(self, states: Sequence[dict[int | str, Any]]) -> None:
        """Replaces the records by those of all processes; an image of several processes counts once."""
        self.reset()
        for state in states:
            self._records = state | self._records

    def __getstate__(self) -> dict[str, Any]:
        """What pickles and copies have: all but the kept results, which are computed again."""
        return {**vars(self), "kept": {}}


Result = TypeVar("Result")


def once_per_records(method: Callable[[Any, Sequence[Any]], Result]) -> Callable[[Any, Sequence[Any]], Result]:
    """A method of an evaluator that keeps its last result and returns it for the same object of records."""

    @wraps(method)
    def kept(self: Any, records: Sequence[Any]) -> Result:
        last: tuple[Sequence[Any], Result] | None = self.kept.get(method)
        if last is None or last[0] is not records:
            last = self.kept[method] = records, method(self, records)
        return last[1]

    return kept
