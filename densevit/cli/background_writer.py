"""Encodes and writes predictions in threads while further images are predicted."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from threading import Event
from types import TracebackType

import numpy as np

from densevit.cli.background_threads import background_threads
from densevit.cli.input_images import ImageFile
from densevit.cli.prediction_files import EncodedImage, PredictionFiles
from densevit.interfaces import Predictions

_ENCODERS = 2  # threads that draw and encode


class BackgroundWriter:
    """Encodes images in several threads and appends them to the files in one thread, in the order of `add`.

    waiting: the largest number of images that are added but not written; `add` waits while there are more. written:
    called with each written image and its text, in order, by the thread that adds.

    At the end of the context, also after an error or an interruption, all added images are written. The first error of
    encoding or writing is raised by `add` or at the end; no image after it is written.
    """

    def __init__(self, files: PredictionFiles, waiting: int, written: Callable[[ImageFile, str], None]) -> None:
        self._files, self._waiting, self._written = files, waiting, written
        self._encoders = background_threads(_ENCODERS, "encode predictions")
        self._appender = background_threads(1, "append predictions")
        self._pending: deque[tuple[ImageFile, Future[str]]] = deque()
        self._failed = Event()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._collect(0)
        finally:
            self._encoders.shutdown(cancel_futures=True)
            self._appender.shutdown(cancel_futures=True)

    def add(
        self,
        image: ImageFile,
        pixels: np.ndarray,
        results: Predictions | Mapping[str, Predictions],
        drawn: bool = True,
    ) -> None:
        """Adds an image; the arguments are those of `PredictionFiles.encode`."""
        encoded = self._encoders.submit(self._files.encode, image, pixels, results, drawn)
        self._pending.append((image, self._appender.submit(self._append, encoded)))
        self._collect(self._waiting)

    def _append(self, encoded: Future[EncodedImage]) -> str:
        if self._failed.is_set():
            raise CancelledError
        try:
            return self._files.append(encoded.result())
        except BaseException:
            self._failed.set()
            raise

    def _collect(self, waiting: int) -> None:
        """Reports the written images; waits until at most this number of images are not written."""
        while self._pending and (len(self._pending) > waiting or self._pending[0][1].done()):
            image, text = self._pending[0]
            try:
                found = text.result()
            except Exception:
                self._pending.clear()  # the others fail because of this one
                raise
            self._pending.popleft()
            self._written(image, found)
