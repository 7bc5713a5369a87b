"""Predicts a list of images into a folder; reading, prediction and writing overlap."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from densevit.errors import DensevitError, has_surrogates
from densevit.inference.image_sizes import ImageSize, requested_size
from densevit.inference.iterating import BATCHES_AT_ONCE, Predicted, background_threads
from densevit.inference.result import Result
from densevit.interfaces import DenseHead
from densevit.model import InferenceModel
from densevit_batch.image_file import ImageFile, open_videos
from densevit_batch.image_sources import category_ids
from densevit_batch.image_texts import image_texts
from densevit_batch.image_writers import DrawnVideos, OutputFolder, write_clouds, write_drawing
from densevit_batch.large_image_prediction import LargePredicted, is_large, predict_large, streams_maps
from densevit_batch.prediction_folder import (
    PARTS,
    Counts,
    Failed,
    ListPart,
    Texts,
    read_counts,
    read_settings,
    write_block,
)

ALL_DRAWN, FIRST_DRAWN = 1_000, 100  # images: up to how many all are drawn; how many of more
_ENCODERS = 2  # threads that draw and encode
_WINDOW_SCORE = 0.05  # of boxes merged from windows; each window adds as many as an image, most near 0


@dataclass(frozen=True)
class PredictionOptions:
    """The options of `densevit predict`. model, inputs: names, for predict.json. inference: options that are set. draw:
    the number of drawn images; None: depends on the number of images. part: (number, count)."""

    model: str
    inputs: Sequence[str]
    threshold: float | None = None
    min_score: float | None = None
    focal: float | None = None
    inference: Mapping[str, Any] = field(default_factory=dict)
    image_size: ImageSize | None = None
    video: bool = False
    format: str = "json"
    draw: int | None = None
    batch_size: int = 8
    part: tuple[int, int] = (1, 1)


class FolderPrediction:
    """Predicts a part of a list of images into a folder, block by block.

    images: the complete list. thresholds: lowest score of drawn and listed objects, by head. lowest: lowest score of
    all objects. drawn: the number of drawn images. ids: the category ids of the jsons that list the images, by name.
    Raises DensevitError for options that the model cannot use.
    """

    def __init__(
        self, model: InferenceModel, images: Sequence[ImageFile], folder: Path, options: PredictionOptions
    ) -> None:
        self.options, self.images, self._model = options, images, model
        windowed = model.with_inference(options.inference, "command line") if options.inference else model
        self._size = requested_size(options.image_size, options.inference, windowed)
        self.thresholds = model.default_thresholds
        if options.threshold is not None:
            self.thresholds = dict.fromkeys(model.classes, options.threshold)
        for head, score in self.thresholds.items() if options.min_score is not None else ():
            check_lowest_score(options.min_score or 0, score, threshold_origin(options.threshold, model, head))
        self.lowest = lowest_scores(options.min_score, self.thresholds, windowed)
        few = options.video or len(images) <= ALL_DRAWN
        self.drawn = options.draw if options.draw is not None else len(images) if few else FIRST_DRAWN
        self.part = ListPart(folder, *options.part, len(images), BATCHES_AT_ONCE * options.batch_size)
        self.ids = category_ids(options.inputs)
        self.output = OutputFolder(folder, windowed, self.thresholds, self.ids)
        if options.format == "parquet":
            self.images = _with_ids_of_one_type(images)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the predictions depend on, including the list of images."""
        digest, options = hashlib.sha256(), self.options
        for image in self.images:
            digest.update(f"{image.image_id!r} {image.file_name}\n".encode(errors="surrogateescape"))
        categories = {
            h: [{"id": c.file_id, "name": c.name} for c in classes] for h, classes in self.output.maps.classes.items()
        }
        return {
            "model": options.model,
            "weights": self._model.fingerprint(),
            "inputs": [*options.inputs],
            "list": f"{len(self.images)} images, {digest.hexdigest()[:16]}",
            "threshold": self.thresholds,
            "min_score": options.min_score,
            "focal": options.focal,
            "inference": dict(options.inference),
            "image_size": self._size,
            "video": options.video,
            "format": options.format,
            "categories": categories,
            "batch_size": options.batch_size,
            PARTS: self.part.count,
        }

    def left(self) -> dict[Path, Sequence[ImageFile]]:
        """Returns all images of each block that must be predicted, by the block's file.

        These are incomplete blocks, and blocks with an image that could not be read before and can be read now.
        """
        if PARTS not in read_settings(self.part.predictions):  # all parts are joined
            return {}
        blocks = {file: self.images[rows] for file, rows in self.part.blocks.items()}
        return {file: images for file, images in blocks.items() if not self._is_done(read_counts(file), images)}

    def _is_done(self, counts: Counts, images: Sequence[ImageFile]) -> bool:
        failed = {image.image_id for image in counts.failed}
        again = [image for image in images if image.image_id in failed]
        open_videos(again)
        return counts.images + len(again) == len(images) and not any(map(self._is_readable, again))

    def _is_readable(self, image: ImageFile) -> bool:
        with suppress(DensevitError):
            image.read(self._model.channels)
            return True
        return False

    def predict(self, left: Mapping[Path, Sequence[ImageFile]]) -> Generator[Predicted, None, None]:
        """Predicts the images of blocks and yields them in order. Writes all yielded images at the end, also after an
        interruption. Raises the first error of writing; its block is not written.

        left: the result of `left`. Blocks are predicted completely, so that batches, which the last digits depend on,
        are the same after an interruption.
        """
        options, stream = self.options, self._stream([image for images in left.values() for image in images])
        videos, draw = DrawnVideos(self.output), partial(write_drawing, self.output, self.drawn)
        writers: list[Callable[..., None]] = [videos.write if options.video else draw]
        writers += [] if options.focal is None else [partial(write_clouds, self.output, options.focal)]
        pending = deque[Future[Any]]()
        with background_threads(1 if options.video else _ENCODERS, "write predictions") as pool:
            try:
                for file, images in left.items():
                    counts, failed, texts = list[Counts](), list[Failed](), list[Future[Texts]]()
                    try:
                        for predicted in islice(stream, len(images)):
                            image = predicted.image
                            if predicted.result is None:
                                failed.append(Failed(image.image_id, image.file_name, str(predicted.error)))
                            else:
                                counts.append(self._count(predicted.result))
                                texts.append(pool.submit(self._write, writers, predicted))
                                pending.append(texts[-1])
                            _wait(pending, self.part.block)
                            yield predicted
                    finally:
                        pending.append(pool.submit(_end_block, file, len(images), [*counts, Counts(0, failed)], texts))
                next(stream, None)  # ends the stream, which may warn
                _wait(pending, 0)
            except BaseException:
                with suppress(Exception):  # the first error counts
                    _wait(pending, 0)
                raise
            finally:
                videos.close()

    def _stream(self, images: Sequence[ImageFile]) -> Iterator[Predicted]:
        """Yields the images with their results; the maps of large images are already written."""
        options, windowed = self.options, self.output.model
        rows = options.format == "json" and options.focal is None and not options.video and self._size == "source"
        large = (lambda image: is_large(image, windowed)) if rows and streams_maps(windowed) else None
        open_videos(images)
        focal = options.focal if self._model.canonical_focals else None
        arguments = options.batch_size, options.inference, options.image_size, large, focal
        for predicted in self._model.iterate(images, self.lowest, *arguments):
            is_skipped = predicted.result is None and predicted.error is None
            yield predict_large(predicted.image, self.output) if is_skipped else predicted

    def _count(self, result: Result) -> Counts:
        scores = {head: values["scores"] for head, values in result.predictions.items() if "scores" in values}
        listed = {head: int((values >= self.thresholds[head]).sum()) for head, values in scores.items()}
        return Counts(1, (), listed, {head: len(values) for head, values in scores.items()})

    def _write(self, writers: Sequence[Callable[..., None]], predicted: Predicted) -> Texts:
        """Writes an image's files and returns its texts."""
        image, pixels, result = predicted[:3]
        assert result is not None
        for write in writers:
            write(image, pixels, result)
        if isinstance(predicted, LargePredicted):
            result = Result(image.path, result.size, {}, {})
        return image_texts(image, result, self.output, self.options.format)


def _wait(pending: deque[Future[Any]], most: int) -> None:
    """Waits until at most `most` futures are pending. Raises the first error."""
    while pending and (len(pending) > most or pending[0].done()):
        try:
            pending.popleft().result()
        except BaseException:
            pending.clear()
            raise


def _end_block(file: Path, images: int, counts: Sequence[Counts], texts: Sequence[Future[Texts]]) -> None:
    """Writes a block; an incomplete block, after an interruption, only if there is none."""
    total = Counts.summed(counts)
    if total.images + len(total.failed) == images or not file.exists():
        write_block(file, total, [text.result() for text in texts])


def _with_ids_of_one_type(images: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Converts all ids to text if one of them is text. Raises DensevitError for a name that is not UTF-8 text."""
    wrong = next((image.file_name for image in images if has_surrogates(image.file_name)), None)
    if wrong is not None:
        raise DensevitError(
            f"--format parquet: the name {wrong!r} is not UTF-8 text, which Parquet needs. Fix: rename it, or use "
            "--format json."
        )
    if all(isinstance(image.image_id, int) for image in images):
        return images
    return [replace(image, image_id=str(image.image_id)) for image in images]


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
