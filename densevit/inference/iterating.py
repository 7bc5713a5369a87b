"""The prediction loop: yields results, or errors of unreadable images, in the order of the images."""

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
from torch.utils._pytree import tree_map_only  # noqa: PLC2701  # torch has no public name for it

from densevit.data.loading.batch_sampler import collate
from densevit.data.transforms.sample_resizing import EvaluationTransform, image_size
from densevit.errors import DensevitError
from densevit.inference.array_inputs import ListedImage, as_sample, focal_target, local_path
from densevit.inference.image_sizes import warn_of_unused_windows
from densevit.inference.result import Result
from densevit.interfaces import Predictions, Sample
from densevit.model import InferenceModel, nan_checked

BATCHES_AT_ONCE = 4  # batches per block: images read together, so that equal sizes can form batches
_NICE = 10  # about a ninth of a core's time while the main thread uses it
_one_at_a_time = threading.Lock()  # Pillow decodes an image on first use, unsafely in several threads


class Predicted(NamedTuple):
    """An image with its result, or with the error of an unreadable image; without both it was left out.

    image: the input. pixels: (H, W, C). sample: the model's input, before prediction.
    """

    image: Any
    pixels: np.ndarray | None = None
    result: Result | None = None
    error: DensevitError | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class ImageLoop:
    """Predicts a stream of images, a block of `BATCHES_AT_ONCE` batches at a time; reads the next block meanwhile.

    A batch has images of one padded size from one block, so it does not depend on other blocks. resize: None: images
    keep their size. thresholds: lowest score of objects, by head. skip: called with each image in a reading thread;
    images for which it is true are not read. focal: the focal length in pixels of all images, or one per image; None:
    read from EXIF, if the model needs it. compares_sizes: whether sizes far from those of training images are reported.
    """

    model: InferenceModel
    resize: EvaluationTransform | None
    thresholds: Mapping[str, float]
    batch_size: int
    skip: Callable[[Any], bool] | None = None
    focal: float | Sequence[float | None] | None = None
    compares_sizes: bool = False

    def __call__(self, images: Iterable[Any], warns: bool = False) -> Iterator[Predicted]:
        """Yields the images in order. warns: warns at the end if no image was larger than a window."""
        sizes: set[tuple[int, int]] = set()
        for block in read_ahead(enumerate(images), BATCHES_AT_ONCE * self.batch_size, self._read):
            for predicted in self._predict(block):
                if predicted.result is not None:
                    sizes.add(predicted.result.size)
                yield predicted
        if warns:
            warn_of_unused_windows(self.model.inference, sizes, self.resize)

    def _read(self, numbered: tuple[int, Any]) -> Predicted:
        number, image = numbered
        try:
            if self.skip is not None and self.skip(image):
                return Predicted(image)
            with _one_at_a_time if isinstance(image, Image.Image) else nullcontext():
                sample = as_sample(image, number, self.model.channels)
                sample["targets"]["image_id"] = _source(image) or number
                if self.model.canonical_focals:
                    focal = self.focal[number] if isinstance(self.focal, Sequence) else self.focal
                    sample["targets"] |= focal_target(image, number, focal)
        except DensevitError as error:
            return Predicted(image, error=error)
        pixels = sample["image"].permute(1, 2, 0).numpy()
        return Predicted(image, pixels, sample=sample if self.resize is None else self.resize(sample))

    def _predict(self, block: Sequence[Predicted]) -> Iterator[Predicted]:
        predictions: dict[int, dict[str, Predictions]] = {}
        for read in block if self.compares_sizes else ():
            if read.sample is not None:
                self.model.training_record.warn_of_size(image_size(read.sample))
        for batch in self._batches(block):
            samples = [read.sample for n in batch if (read := block[n]).sample is not None]
            predictions.update(zip(batch, infer(self.model, samples), strict=True))
        for n, read in enumerate(block):
            yield read._replace(result=self._result(read, predictions[n]), sample=None) if n in predictions else read

    def _batches(self, block: Sequence[Predicted]) -> Iterator[list[int]]:
        """Yields the indices of each batch: images of one padded size, full batches first."""
        waiting: dict[tuple[int, ...], list[int]] = {}
        for n, read in enumerate(block):
            if read.sample is None:
                continue
            height, width = read.sample["image"].shape[1:]
            size = self.model.padded_size((height, width))
            waiting.setdefault(size, []).append(n)
            if len(waiting[size]) == self.batch_size:
                yield waiting.pop(size)
        yield from waiting.values()

    def _result(self, read: Predicted, predictions: Mapping[str, Predictions]) -> Result:
        image, pixels, model = read.image, read.pixels, self.model
        assert pixels is not None
        file = local_path(image)
        path, frame = (image.path, image.frame) if isinstance(image, ListedImage) else (file, None)
        return Result(
            pixels if file is None else file,
            (pixels.shape[0], pixels.shape[1]),
            predictions,
            model.classes,
            self.thresholds,
            model.target_types,
            (image if file is None else str(file)) if isinstance(image, str) else path,
            frame,
            model.channels,
        )


def _source(image: Any) -> str | None:
    """The path, with the frame of a video, or the URL of an image; None for other inputs."""
    if isinstance(image, ListedImage):
        return f"{image.path}" if image.frame is None else f"{image.path}, frame {image.frame}"
    return str(image) if isinstance(image, str | os.PathLike) else None


def read_ahead(images: Iterable[Any], size: int, read: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """Yields blocks of `size` results of `read`; threads read the next block meanwhile."""
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
    """A pool whose threads leave the cores to the main thread, which keeps the accelerator busy; cancels pending work
    at the end. Priorities are lowered on Linux, where threads have their own."""
    pool = ThreadPoolExecutor(count, name, _lower_priority if sys.platform == "linux" else None)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


@torch.inference_mode()
def infer(model: InferenceModel, samples: list[Sample]) -> list[dict[str, Predictions]]:
    """The predictions of each head for each image of a batch, on the CPU.

    samples: images as resized for the model, of one padded size.
    """
    batch = collate(samples, model.padding, channels=model.channels)
    for key in ("images", "padding_mask"):
        batch[key] = batch[key].to(model.device)
    with nan_checked(model):
        by_head = tree_map_only(Tensor, Tensor.cpu, model.infer(batch))
    return [{head: images[i] for head, images in by_head.items()} for i in range(len(samples))]
