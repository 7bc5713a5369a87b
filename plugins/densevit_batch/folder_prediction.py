"""Predicts a list of images into a folder; reading, prediction and writing overlap."""

import hashlib
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from densevit.errors import DensevitError, has_surrogates
from densevit.inference.image_sizes import requested_size
from densevit.inference.iterating import BATCHES_AT_ONCE, Predicted, background_threads
from densevit.inference.result import Result
from densevit.interfaces import DenseHead
from densevit.model import InferenceModel
from densevit_batch.image_file import ImageFile
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
Written = tuple[Counts, Texts]
"""The counts and the texts of an image; unreadable images have no texts."""


class FolderPrediction:
    """Predicts a part of a list of images into a folder, block by block.

    images: the complete list. args: the arguments of `densevit predict`. inference: its options of inference that are
    set. part: number and count. thresholds: lowest score of drawn and listed objects, by head. lowest: lowest score of
    all objects. drawn: the number of drawn images. ids: the category ids of the jsons that list the images, by name.
    Raises DensevitError for options that the model cannot use.
    """

    def __init__(
        self,
        model: InferenceModel,
        images: Sequence[ImageFile],
        args: Namespace,
        inference: Mapping[str, Any],
        part: tuple[int, int],
    ) -> None:
        self.args, self.inference, self.images, self._model = args, inference, images, model
        windowed = model.with_inference(inference, "command line") if inference else model
        self._size = requested_size(args.image_size, inference, windowed)
        self.thresholds = model.default_thresholds
        if args.threshold is not None:
            self.thresholds = dict.fromkeys(model.classes, args.threshold)
        self.lowest = lowest_scores(args.min_score, self.thresholds, windowed)
        for head, score in self.thresholds.items():
            if args.min_score is not None and args.min_score > score:
                raise DensevitError(
                    f"--min-score is {args.min_score:g}, above the threshold {score:.4g} "
                    f"({threshold_origin(args.threshold, model, head)}); at most the threshold is expected, as no file "
                    "has objects below --min-score. Fix: lower --min-score, or raise --threshold."
                )
        self.drawn = args.draw
        if args.draw is None:
            self.drawn = len(images) if args.video or len(images) <= ALL_DRAWN else FIRST_DRAWN
        self.part = ListPart(args.out, *part, len(images), BATCHES_AT_ONCE * args.batch_size)
        self.ids = category_ids(args.sources)
        self.output = OutputFolder(args.out, windowed, self.thresholds, self.ids)
        if args.format == "parquet":
            self.images = _with_ids_of_one_type(images)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the predictions depend on, including the list of images."""
        digest, args = hashlib.sha256(), self.args
        for image in self.images:
            digest.update(f"{image.image_id!r} {image.file_name}\n".encode(errors="surrogateescape"))
        categories = {
            h: [{"id": c.file_id, "name": c.name} for c in classes] for h, classes in self.output.maps.classes.items()
        }
        return {
            "model": args.model,
            "weights": self._model.fingerprint(),
            "inputs": args.sources,
            "list": f"{len(self.images)} images, {digest.hexdigest()[:16]}",
            "threshold": self.thresholds,
            "min_score": args.min_score,
            "focal": args.focal,
            "inference": self.inference,
            "image_size": self._size,
            "video": args.video,
            "format": args.format,
            "categories": categories,
            "batch_size": args.batch_size,
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
        videos, pending = DrawnVideos(self.output), deque[Future[Any]]()
        writers = [videos.write if self.args.video else partial(write_drawing, self.output, self.drawn)]
        if self.args.focal is not None:
            writers.append(partial(write_clouds, self.output, self.args.focal))
        stream = self._stream([image for images in left.values() for image in images])
        with background_threads(1 if self.args.video else _ENCODERS, "write predictions") as pool:
            try:
                for file, images in left.items():
                    written = list[Future[Written]]()
                    try:
                        for predicted in islice(stream, len(images)):
                            written.append(pool.submit(self._write, writers, predicted))
                            pending.append(written[-1])
                            _wait(pending, self.part.block)
                            yield predicted
                    finally:
                        pending.append(pool.submit(_end_block, file, len(images), written))
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
        args, windowed = self.args, self.output.model
        rows = args.format == "json" and args.focal is None and not args.video and self._size == "source"
        large = (lambda image: is_large(image, windowed)) if rows and streams_maps(windowed) else None
        focal = args.focal if self._model.canonical_focals else None
        options = args.batch_size, self.inference, args.image_size, large, focal
        for predicted in self._model.iterate(images, self.lowest, *options):
            is_skipped = predicted.result is None and predicted.error is None
            yield predict_large(predicted.image, self.output) if is_skipped else predicted

    def _write(self, writers: Sequence[Callable[..., None]], predicted: Predicted) -> Written:
        """Writes an image's files. Returns its counts and texts."""
        image, pixels, result, error = predicted[:4]
        if result is None:
            return Counts(0, [Failed(image.image_id, image.file_name, str(error))]), {}
        for write in writers:
            write(image, pixels, result)
        scores = {head: values["scores"] for head, values in result.predictions.items() if "scores" in values}
        listed = {head: int((values >= self.thresholds[head]).sum()) for head, values in scores.items()}
        counts = Counts(1, (), listed, {head: len(values) for head, values in scores.items()})
        if isinstance(predicted, LargePredicted):
            result = Result(image.path, result.size, {}, {})
        return counts, image_texts(image, result, self.output, self.args.format)


def _wait(pending: deque[Future[Any]], most: int) -> None:
    """Waits until at most `most` futures are pending. Raises the first error."""
    while pending and (len(pending) > most or pending[0].done()):
        try:
            pending.popleft().result()
        except BaseException:
            pending.clear()
            raise


def _end_block(file: Path, images: int, written: Sequence[Future[Written]]) -> None:
    """Writes a block; an incomplete block, after an interruption, only if there is none."""
    results = [future.result() for future in written]
    if len(results) == images or not file.exists():
        write_block(file, Counts.summed([counts for counts, _ in results]), [texts for _, texts in results if texts])


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


def threshold_origin(threshold: float | None, model: InferenceModel, head: str) -> str:
    """The origin of a head's threshold, as text. threshold: --threshold."""
    if threshold is not None:
        return "--threshold"
    if head in getattr(model, "thresholds", {}):
        return "the threshold inside the file; see --threshold"
    if head in model.score_thresholds:
        return "the largest F1 in the model's validation; see --threshold"
    return "the default, as the model has none from validation; see --threshold"
