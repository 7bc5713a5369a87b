"""`predict` and `iterate` of models and exported files."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from numbers import Integral
from typing import Any

from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import DensevitError, head_names
from densevit.inference.array_inputs import as_images, images_of
from densevit.inference.image_sizes import ImageSize, requested_size, transform_to
from densevit.inference.iterating import ImageLoop, Predicted
from densevit.inference.result import Result
from densevit.model import InferenceModel, Threshold, unwrapped


def predict(
    model: InferenceModel,
    images: Any,
    threshold: Threshold | None,
    batch_size: int,
    inference: Mapping[str, Any] | None,
    image_size: ImageSize | None,
    focal: Any,
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
    focal: Any = None,
) -> Iterator[Predicted]:
    """`InferenceModel.iterate`."""
    model = unwrapped(model, "predict")
    thresholds = _thresholds(model, threshold)
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise DensevitError(f"predict: batch_size is {batch_size}; a number, at least 1, is expected.")
    if not isinstance(inference, Mapping | None):
        raise DensevitError(
            f"predict: inference is {inference!r}; a dict of options for all images, such as "
            '{"flip": True}, is expected.'
        )
    focal = _focals(model, focal)
    if isinstance(focal, list):
        images = _counted(images, len(focal))
    options = inference or {}
    model = model.with_inference(options, "predict") if options else model
    transforms = model.resize
    evaluation = None if transforms is None else EvaluationTransform(transforms)
    size = requested_size(image_size, options, model)
    is_whole = (
        size is None and not model.resizes and all(section.window is None for section in model.inference.values())
    )
    loop = ImageLoop(model, transform_to(size, evaluation), thresholds, batch_size, skip, focal, is_whole)
    return loop(images, warns=options.get("window") is not None)


def _thresholds(model: InferenceModel, threshold: Threshold | None) -> dict[str, float]:
    """The score threshold of each head. threshold: one for all heads, or some by head; other heads: the model's."""
    scores = {} if threshold is None else threshold
    by_head = {**scores} if isinstance(scores, Mapping) else dict.fromkeys(model.heads, scores)
    head_names(by_head, model.heads, "predict: threshold")
    for score in by_head.values():
        number: Any = _plain(score)
        if not isinstance(number, int | float) or not 0 <= number <= 1:
            raise DensevitError(
                f"predict: threshold is {score}; a score from 0 to 1 for all images, or a dict of scores by head, "
                "is expected."
            )
    return {**model.default_thresholds, **by_head}


def _focals(model: InferenceModel, focal: Any) -> float | list[float | None] | None:
    """The focal length of all images, or a list of one per image. Raises DensevitError for other values, and for a
    model without a canonical camera."""
    focal = _plain(focal)
    is_list = isinstance(focal, list | tuple)
    focals: list[Any] = [_plain(value) for value in focal] if is_list else [focal]
    are_valid = all(value is None or (isinstance(value, int | float) and 0 < value < math.inf) for value in focals)
    if focal is not None and not (model.canonical_focals and are_valid):
        raise DensevitError(
            f"predict: focal is {focal}; a number of pixels above 0, or a list of one per image, for a head with "
            "camera: canonical, is expected."
        )
    return focals if is_list else focal


def _counted(images: Iterable[Any], count: int) -> Iterable[Any]:
    """The images. Raises DensevitError if there are not `count` of them; without `len`, while they are read."""
    if isinstance(images, Sized):
        _check_count(count, str(len(images)), len(images) == count)
        return images
    return _counted_stream(images, count)


def _counted_stream(images: Iterable[Any], count: int) -> Iterator[Any]:
    number = 0
    for number, image in enumerate(images, 1):
        _check_count(count, f"at least {number}", number <= count)
        yield image
    _check_count(count, str(number), number == count)


def _check_count(count: int, images: str, is_equal: bool) -> None:
    if not is_equal:
        raise DensevitError(
            f"predict: focal is a list of length {count}, but the number of images is {images}. Fix: one focal length "
            "per image, or one number for all."
        )


def _plain(value: Any) -> Any:
    """The number, or the list, of an array or a tensor; other values as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def _results(predicted: Iterator[Predicted]) -> Iterator[Result]:
    """Yields the results. Raises the error of an unreadable image."""
    for image in predicted:
        if image.result is None:
            raise image.error or AssertionError
        yield image.result
