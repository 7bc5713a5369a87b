"""`predict` and `iterate` of models and exported files."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import DensevitError, head_names
from densevit.inference.array_inputs import as_images, images_of
from densevit.inference.image_sizes import ImageSize, requested_size, transform_to
from densevit.inference.iterating import ImageLoop, Predicted
from densevit.inference.result import Result
from densevit.model import InferenceModel, Threshold


def predict(
    model: InferenceModel,
    images: Any,
    threshold: Threshold | None,
    batch_size: int,
    inference: Mapping[str, Any] | None,
    image_size: ImageSize | None,
    focal: float | None,
) -> Any:
    """`InferenceModel.predict`."""
    inputs, single = as_images(images_of(images, model.channels) or images)
    results: Any = _results(iterate(model, inputs, threshold, batch_size, inference, image_size, focal=focal))
    results = results if isinstance(inputs, Iterator) else [*results]
    return results[0] if single else results


def iterate(
    model: InferenceModel,
    images: Iterable[Any],
    threshold: Threshold | None,
    batch_size: int,
    inference: Mapping[str, Any] | None,
    image_size: ImageSize | None,
    skip: Callable[[Any], bool] | None = None,
    focal: float | None = None,
) -> Iterator[Predicted]:
    """`InferenceModel.iterate`."""
    thresholds = _thresholds(model, threshold)
    if batch_size < 1:
        raise DensevitError(f"predict: batch_size is {batch_size}; at least 1 is expected.")
    if focal is not None and not (model.canonical_focals and 0 < focal < math.inf):
        raise DensevitError(
            f"predict: focal is {focal}; a number of pixels above 0, for a head with camera: canonical, is expected."
        )
    options = inference or {}
    model = model.with_inference(options, "predict") if options else model
    transforms = model.resize
    evaluation = None if transforms is None else EvaluationTransform(transforms)
    resize = transform_to(requested_size(image_size, options, model), evaluation)
    return ImageLoop(model, resize, thresholds, batch_size, skip, focal)(
        images, warns=options.get("window") is not None
    )


def _thresholds(model: InferenceModel, threshold: Threshold | None) -> dict[str, float]:
    """The score threshold of each head. threshold: one for all heads, or some by head; other heads: the model's."""
    scores = {} if threshold is None else threshold
    by_head = {**scores} if isinstance(scores, Mapping) else dict.fromkeys(model.heads, scores)
    head_names(by_head, model.heads, "predict: threshold")
    for score in by_head.values():
        if not 0 <= score <= 1:
            raise DensevitError(f"predict: threshold is {score}; a score from 0 to 1 is expected.")
    return {**model.default_thresholds, **by_head}


def _results(predicted: Iterator[Predicted]) -> Iterator[Result]:
    """Yields the results. Raises the error of an unreadable image."""
    for image in predicted:
        if image.result is None:
            raise image.error or AssertionError
        yield image.result
