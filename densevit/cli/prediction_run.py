"""The run of `densevit predict`: images are read, predicted and written at the same time."""

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densevit.cli.background_writer import BackgroundWriter
from densevit.cli.failed_images import FailedImages
from densevit.cli.input_images import ImageFile, read_ahead
from densevit.cli.map_files import TILE
from densevit.cli.prediction_files import PredictionFiles
from densevit.cli.prediction_parts import Owner, Part, PartState
from densevit.data.io import large_tiff
from densevit.data.io.large_tiff import SUFFIXES, LargeTiff
from densevit.errors import DensevitError, UnreadableFileError
from densevit.inference.image_sizes import transform_to, warn_of_unused_windows
from densevit.inference.predictor import BATCHES_AT_ONCE

if TYPE_CHECKING:
    from densevit.inference.image_sizes import ImageSize
    from densevit.inference.predictor import Predictor

_ALL_DRAWN, _FIRST_DRAWN = 1_000, 100  # images: the largest number of which all are drawn, and the first of more
_WINDOW_SCORE = 0.05  # lowest score of boxes merged from windows; each window adds as many as an image has, most near 0
INTERRUPTED = 130  # exit status, as of a shell
_SHOWN_FAILURES = 20  # failed.csv has all


class PredictionRun:
    """Predicts images into a folder, all of them or some parts.

    args: the arguments of the command. options: the given options of `inference`. images: the whole list. Raises
    DensevitError if --min-score is above the model's threshold.
    """

    def __init__(
        self,
        args: Namespace,
        predictor: "Predictor",
        options: Mapping[str, Any],
        image_size: "ImageSize | None",
        images: Sequence[ImageFile],
        folder: Path,
    ) -> None:
        self.args, self.predictor, self.options, self.image_size = args, predictor, options, image_size
        self.images, self.folder, self.output = images, folder, args.output
        self.thresholds = _thresholds(args, predictor)
        for head, score in self.thresholds.items() if args.min_score is not None else ():
            check_lowest_score(args.min_score, score, threshold_origin(args.threshold, predictor, head))
        self.written_from = lowest_scores(args.min_score, self.thresholds, predictor)
        self.drawn = args.draw
        if self.drawn is None:
            self.drawn = len(images) if args.video or len(images) <= _ALL_DRAWN else _FIRST_DRAWN
        self.block = BATCHES_AT_ONCE * args.batch_size  # images that are read and predicted together
        self.text_ids = args.format == "parquet" and any(isinstance(image.image_id, str) for image in images)
        self.given = self.left = self.written = 0  # numbers of images
        self.sizes: set[tuple[int, int]] = set()
        self.problems: list[str] = []
        self.objects: dict[str, tuple[int, int]] = {}

    def run(self, parts: Sequence[tuple[Part, PartState]] | None = None) -> int:
        """Predicts all images, or those of each part that no other process takes first; see `Part.take`.

        Returns 1 if more images than --max-failed could not be read, 130 after an interruption, else 0.
        """
        if self.args.draw is None and self.drawn < len(self.images):
            self.output.show(
                f"The first {self.drawn} of {len(self.images):,} images are drawn. For others: --draw all or --draw N"
            )
        try:
            if parts is None:
                self._predict(self.images)
            for part, state in parts or ():
                if (owner := part.take(state)) is not None:
                    with closing(owner):
                        self._predict(part.of(self.images, self.block), part, owner)
                        owner.complete = True
        except KeyboardInterrupt:
            rest = "drawn/ has these" if self.args.video else f"Continue with --out {self.folder} --resume"
            self.output.problem(f"Stopped after {self.written} of {self.left} images. {rest}")
            return INTERRUPTED
        self._show_results()
        result = {"out": str(self.folder), "images": self.written, "skipped": self.given - self.left}
        self.output.result({**result, "threshold": self.thresholds, "problems": self.problems})
        return 1 if len(self.problems) > self.args.max_failed else 0

    def _predict(self, images: Sequence[ImageFile], part: Part | None = None, owner: Owner | None = None) -> None:
        """Predicts the images of a part, or all. Counts them, their objects and failures."""
        lists = self.folder if part is None else part.folder
        files = PredictionFiles(
            self.folder,
            self.predictor.classes,
            self.thresholds,
            self.args.focal,
            self.predictor.target_types,
            self.settings,
            self.args.resume,
            self.args.video,
            self.args.format == "parquet",
            self.text_ids,
            None if part is None else lists,
            self.predictor.channels,
        )
        left = files.remaining(images)
        self.given, self.left = self.given + len(images), self.left + len(left)
        if self.args.resume:
            where = self.folder if part is None else f"{self.folder}, {part}"
            self.output.show(f"{where} has {len(images) - len(left)} of {len(images)} images; {len(left)} are left")
        failed = FailedImages(lists / "failed.csv", left)

        def report(image: ImageFile, text: str) -> None:
            self.written += 1
            failed.remove(image)
            if owner is not None:
                owner.images, owner.failed = owner.images + 1, len(failed.reasons)
                owner.check()
            if text:
                self.output.show(f"{image.file_name}: {text}")

        if owner is not None:
            owner.images = len(images) - len(left)
        large: list[ImageFile] = []
        with files, failed:
            with BackgroundWriter(files, self.block, report) as writer:
                predicted = self._predicted(images, left, failed, large)
                title = "Predicting" if part is None else f"Predicting {part}"
                for image, pixels, result in self.output.track(predicted, title, len(left)):
                    writer.add(image, pixels, result, image.place < self.drawn)
            for image in large:
                try:
                    report(image, self._write_large(files, image))
                except UnreadableFileError as error:
                    failed.add(image, error)
            for image in left if failed.reasons else ():
                if image.file_name in failed.reasons:
                    files.add_failed(image)
        if owner is not None:
            owner.failed = len(failed.reasons)
        self.problems += failed.reasons.values()
        for head, counts in files.objects.items():
            before = self.objects.get(head, (0, 0))
            self.objects[head] = before[0] + counts[0], before[1] + counts[1]

    def _is_large(self, image: ImageFile) -> bool:
        """Whether an image is read and predicted by rows of windows."""
        is_file = image.location.lower().endswith(SUFFIXES) and image.url is None and image.member is None
        is_usual = self.args.format == "json" and self.args.focal is None and not self.args.video
        if not (is_file and is_usual and self.image_size == "source" and self.predictor.streams_maps):
            return False
        try:
            with self._opened(image) as opened:
                return math.prod(opened.shape[1:]) >= large_tiff.LARGE
        except UnreadableFileError:
            return False  # read as a whole, or reported by that

    def _opened(self, image: ImageFile) -> LargeTiff:
        return LargeTiff(image.path, self.predictor.channels, self.predictor.device)

    def _write_large(self, files: PredictionFiles, image: ImageFile) -> str:
        """Predicts and writes an image by rows of windows, one head after the other."""
        with self._opened(image) as opened:
            _, height, width = opened.shape
            self.sizes.add((height, width))
            strips = {
                head: self.output.track(
                    self.predictor.predict_strips(opened, head, TILE),
                    f"Predicting {image.file_name}",
                    -(-height // TILE),
                )
                for head in self.predictor.heads
            }
            return files.add_strips(image, opened, strips, image.place < self.drawn)

    def _predicted(
        self, images: Sequence[ImageFile], left: Sequence[ImageFile], failed: FailedImages, large: list[ImageFile]
    ) -> Iterator[tuple[ImageFile, np.ndarray, Any]]:
        """Yields the images that are left, with their pixels and predictions, and appends those to `large` that are
        predicted by rows of windows.

        Whole blocks of the list are predicted, so that batches do not depend on what is left: in other batches, the
        last digits differ.
        """
        places = {image.place for image in left}
        blocks = (images[first : first + self.block] for first in range(0, len(images), self.block))
        wanted = [image for block in blocks if any(one.place in places for one in block) for image in block]
        for chunk in read_ahead(wanted, self.block, self.predictor.channels, self._is_large):
            readable = []
            for image, pixels in chunk:
                if pixels is None:
                    large += [image] if image.place in places else []
                elif not isinstance(pixels, DensevitError):
                    readable.append((image, pixels))
                elif image.place in places:
                    failed.add(image, pixels)
            if not any(image.place in places for image, _ in readable):
                continue
            self.sizes.update((pixels.shape[0], pixels.shape[1]) for _, pixels in readable)
            results = self.predictor.predict(
                [pixels for _, pixels in readable],
                self.written_from,
                self.args.batch_size,
                image_size=self.image_size,
            )
            for (image, pixels), result in zip(readable, results, strict=True):
                if image.place in places:
                    yield image, pixels, result

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the predictions depend on."""
        return {
            "model": self.args.model,
            "weights": self.predictor.fingerprint,
            "inputs": self.args.sources,
            "threshold": self.thresholds,
            "min_score": self.args.min_score,
            "focal": self.args.focal,
            "inference": dict(self.options),
            "image_size": self.image_size,
            "video": self.args.video,
            "format": self.args.format,
        }

    def _show_results(self) -> None:
        problems = self.problems
        for problem in problems[:_SHOWN_FAILURES]:
            self.output.problem(problem)
        if len(problems) > _SHOWN_FAILURES:
            self.output.problem(f"{len(problems) - _SHOWN_FAILURES:,} more images could not be read.")
        if self.options.get("window") is not None:
            resize = transform_to(self.image_size, self.predictor.resize)
            warn_of_unused_windows(self.predictor.inference, self.sizes, resize)
        left_out = f"; {len(problems)} could not be read, see failed.csv" if problems else ""
        self.output.show(f"{self.folder}: {self.written} of {self.left} images{left_out}")
        for head, (listed, total) in self.objects.items():
            path = f"{head}/predictions" if len(self.thresholds) > 1 else "predictions"
            is_json = self.args.format == "json"
            every = f"{path}.json" if is_json else path.removesuffix("predictions") + "objects.parquet"
            lowest = f" of score {self.written_from[head]:g} or more" if self.written_from[head] else ""
            self.output.show(
                f"{path}.csv: the {listed} objects of score {self.thresholds[head]:.4g} or more "
                f"({threshold_origin(self.args.threshold, self.predictor, head)}); {every}: all {total}{lowest}"
            )


def lowest_scores(min_score: float | None, thresholds: Mapping[str, float], predictor: "Predictor") -> dict[str, float]:
    """The lowest score of a head's objects in all files, by head. min_score: --min-score."""
    if min_score is not None:
        return dict.fromkeys(thresholds, min_score)
    merged = {head: predictor.merges_windows(head) for head in thresholds}
    return {head: min(score, _WINDOW_SCORE) if merged[head] else 0.0 for head, score in thresholds.items()}


def check_lowest_score(lowest: float, threshold: float, origin: str) -> None:
    """Raises DensevitError if --min-score is above the threshold.

    origin: where the threshold is from, for the message.
    """
    if lowest > threshold:
        raise DensevitError(
            f"--min-score is {lowest:g}, above the threshold {threshold:.4g} ({origin}); at most the threshold is "
            "expected, as no file has objects below --min-score. Fix: lower --min-score, or raise --threshold."
        )


def threshold_origin(given: float | None, predictor: "Predictor", head: str) -> str:
    """The origin of the threshold of a head, as text. given: --threshold."""
    if given is not None:
        return "--threshold"
    if head in getattr(predictor.model, "thresholds", {}):
        return "that inside the file; see --threshold"
    if head in predictor.score_thresholds:
        return "the largest F1 in the model's validation; see --threshold"
    return "the default, because the model has none from a validation; see --threshold"


def _thresholds(args: Namespace, predictor: "Predictor") -> dict[str, float]:
    """The lowest score of the objects that are drawn and listed, by head."""
    if args.threshold is not None:
        return dict.fromkeys(predictor.classes, args.threshold)
    return predictor.default_thresholds
