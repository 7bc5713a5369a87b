"""The loop that predicts: images in; results, or errors of images that cannot be read, out in the same order."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densevit.config import InferenceSection
from densevit.data.loading.batch_sampler import collate
from densevit.data.transforms.sample_resizing import EvaluationTransform
from densevit.errors import DensevitError
from densevit.inference.image_file import ImageFile
from densevit.inference.image_inputs import VideoFrame, as_sample
from densevit.inference.image_sizes import warn_of_unused_windows
from densevit.inference.result import Result
from densevit.interfaces import Predictions, Sample
from densevit.model import DenseModel

BATCHES_AT_ONCE = 4  # batches of a block: images that are read together, so that equal sizes can form batches
_NICE = 10  # of the system: about a ninth of the time of a core that the main thread wants too
_one_at_a_time = threading.Lock()  # Pillow decodes an image when it is used, also if several threads use it


class Predicted(NamedTuple):
    """An image with its result, or with the error for which there is none.

    image: what was given. pixels: (H, W, C). error: the reason why it cannot be read. Without result and error it was
    left out. sample: what the model takes; only before it is predicted.
    """

    image: Any
    pixels: np.ndarray | None = None
    result: Result | None = None
    error: DensevitError | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class ImageLoop:
    """Predicts a stream of images, a block of `BATCHES_AT_ONCE` batches at a time; reads the next block meanwhile.

    A batch has images of one padded size, and only of its block: it does not depend on other blocks. resize: None:
    images keep their size. thresholds: the lowest score of objects by head. left_out: called with each image in a
    thread that reads; such images are not read.
    """

    model: DenseModel
    inference: Mapping[str, InferenceSection]
    resize: EvaluationTransform | None
    thresholds: Mapping[str, float]
    batch_size: int
    left_out: Callable[[Any], bool] | None = None

    def __call__(self, images: Iterable[Any], warns: bool = False) -> Iterator[Predicted]:
        """Yields the images in order. warns: warns at the end if no image was larger than a window."""
        sizes: set[tuple[int, int]] = set()
        for block in read_ahead(enumerate(images), BATCHES_AT_ONCE * self.batch_size, self._read):
            for predicted in self._predict(block):
                if predicted.result is not None:
                    sizes.add(predicted.result.size)
                yield predicted
        if warns:
            warn_of_unused_windows(self.inference, sizes, self.resize)

    def _read(self, numbered: tuple[int, Any]) -> Predicted:
        number, image = numbered
        try:
            if self.left_out is not None and self.left_out(image):
                return Predicted(image)
            with _one_at_a_time if isinstance(image, Image.Image) else nullcontext():
                sample = as_sample(image, number, self.model.channels)
        except DensevitError as error:
            return Predicted(image, error=error)
        pixels = sample["image"].permute(1, 2, 0).numpy()
        return Predicted(image, pixels, sample=sample if self.resize is None else self.resize(sample))

    def _predict(self, block: Sequence[Predicted]) -> Iterator[Predicted]:
        found: dict[int, dict[str, Predictions]] = {}
        with evaluation_mode(self.model):
            for batch in self._batches(block):
                samples = [read.sample for n in batch if (read := block[n]).sample is not None]
                found.update(zip(batch, infer(self.model, self.inference, samples), strict=True))
        for n, read in enumerate(block):
            yield read._replace(result=self._result(read, found[n]), sample=None) if n in found else read

    def _batches(self, block: Sequence[Predicted]) -> Iterator[list[int]]:
        """Yields the places of images that form batches: of one padded size, full ones first."""
        waiting: dict[tuple[int, ...], list[int]] = {}
        for n, read in enumerate(block):
            if read.sample is None:
                continue
            size = tuple(-(-side // self.model.multiple) for side in read.sample["image"].shape[1:])
            waiting.setdefault(size, []).append(n)
            if len(waiting[size]) == self.batch_size:
                yield waiting.pop(size)
        yield from waiting.values()

    def _result(self, read: Predicted, predictions: Mapping[str, Predictions]) -> Result:
        image, pixels, model = read.image, read.pixels, self.model
        assert pixels is not None
        named = isinstance(image, str | os.PathLike)
        path, frame = (image.path, image.frame) if isinstance(image, VideoFrame | ImageFile) else (None, None)
        return Result(
            image if named and "://" not in str(image) else pixels,
            (pixels.shape[0], pixels.shape[1]),
            predictions,
            model.classes,
            self.thresholds,
            model.target_types,
            image if named else path,
            frame,
            model.channels,
        )


def read_ahead(images: Iterable[Any], size: int, read: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Yields blocks of this size of what `read` returns for each image; threads read the next block meanwhile."""
    stream = iter(images)
    with background_threads((os.cpu_count() or 1) + 1, "read images") as pool:

        def begin() -> list[Any]:
            return [pool.submit(read, image) for image in islice(stream, size)]

        block = begin()
        while block:
            ready, block = block, begin()
            yield [future.result() for future in ready]


@contextmanager
def background_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads leave the cores to the main thread, which keeps the accelerator busy; what has not begun at
    the end is cancelled. On other systems than Linux, priorities are of processes, and unchanged."""
    pool = ThreadPoolExecutor(count, name, _lower_priority if sys.platform == "linux" else None)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


@torch.inference_mode()
def infer(
    model: DenseModel, inference: Mapping[str, InferenceSection], samples: list[Sample]
) -> list[dict[str, Predictions]]:
    """Returns the predictions of each head for each image of a batch, on the CPU, of a model in
    evaluation mode."""
    batch = collate(samples, model.multiple, channels=model.channels)
    for key in ("images", "padding_mask"):
        batch[key] = batch[key].to(model.mean.device)
    by_head = model.infer(batch, inference)
    return [
        {head: {key: _on_cpu(value) for key, value in found[i].items()} for head, found in by_head.items()}
        for i in range(len(samples))
    ]


@contextmanager
def evaluation_mode(model: DenseModel) -> Iterator[None]:
    """Switches the model to evaluation mode and restores its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
