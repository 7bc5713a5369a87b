"""Writers of drawings and point clouds, one file per image, and of drawn videos, one file per video."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from densevit.data.datasets.depth_maps import file_types
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.map_files import MapFiles
from densevit.drawing.draw import draw
from densevit.drawing.drawn_video import DrawnVideo
from densevit.drawing.point_cloud import write_ply
from densevit.errors import DensevitError
from densevit.inference.iterating import Predicted
from densevit.inference.result import Result
from densevit.interfaces import Class
from densevit.model import InferenceModel
from densevit.targets.target_class_mapping import plain_name


@dataclass(frozen=True)
class OutputFolder:
    """A folder of predictions. thresholds: the lowest score of drawn and listed objects, by head. ids: the parameter
    of `with_file_ids`."""

    path: Path
    model: InferenceModel
    thresholds: Mapping[str, float]
    ids: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def maps(self) -> MapFiles:
        classes = {head: with_file_ids(listed, self.ids) for head, listed in self.model.classes.items()}
        return MapFiles(self.path, classes, file_types(self.model))

    def file(self, head: str, folder: str, name: str) -> Path:
        """The path of a head's file; creates its folder."""
        path = self.maps.folder_of(head) / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def drawn(self, head: str, predicted: Predicted, frame: bool = False) -> np.ndarray:
        """The visualization of a head's predictions, (H, W, 3) uint8. frame: keeps the size of the image."""
        types, channels = self.maps.types[head], self.model.channels
        predictions, lowest = result_of(predicted).predictions[head], self.thresholds[head]
        return draw(pixels_of(predicted), predictions, self.maps.classes[head], lowest, None, types, frame, channels)


def with_file_ids(classes: Sequence[Class], ids: Mapping[str, int]) -> tuple[Class, ...]:
    """The classes with the file ids of equal names, or else of equal `plain_name`; others get the ids after the largest
    one. ids: the file ids by name; {}: the classes are returned unchanged."""
    names = {plain_name(name): file_id for name, file_id in ids.items()} | {**ids}
    free = itertools.count(max(ids.values(), default=0) + 1)
    keyed = ((c, c.name if c.name in ids else plain_name(c.name)) for c in classes)
    return tuple(replace(c, file_id=names[key] if key in names else next(free)) if ids else c for c, key in keyed)


class ImageWriter(Protocol):
    """Writes the files of an image, an `ImageFile` with its result. Several threads may call `write`."""

    def write(self, predicted: Predicted) -> None: ...

    def close(self) -> None: ...


def result_of(predicted: Predicted) -> Result:
    assert predicted.result is not None
    return predicted.result


def pixels_of(predicted: Predicted) -> np.ndarray:
    assert predicted.pixels is not None
    return predicted.pixels


class Drawings:
    """Writes drawn/NAME.jpg of the first `count` images of the list."""

    def __init__(self, output: OutputFolder, count: int) -> None:
        self._output, self._count = output, count

    def write(self, predicted: Predicted) -> None:
        for head in result_of(predicted).predictions if predicted.image.index < self._count else ():
            path = self._output.file(head, "drawn", f"{predicted.image.name}.jpg")
            Image.fromarray(self._output.drawn(head, predicted)).save(path, quality=92)

    def close(self) -> None: ...


class DrawnVideos:
    """Writes drawn/NAME.mp4 of each video. Frames must come in order, one video after the other."""

    def __init__(self, output: OutputFolder) -> None:
        self._output, self._videos = output, dict[str, DrawnVideo]()  # the open video of each head

    def write(self, predicted: Predicted) -> None:
        name = f"{Path(predicted.image.name).name.rpartition('_')[0]}.mp4"
        for head in result_of(predicted).predictions:
            path, video = self._output.file(head, "drawn", name), self._videos.get(head)
            if video is None or video.path != path:
                if video is not None:
                    video.close()
                video = self._videos[head] = DrawnVideo(path, predicted.image.path)
            video.add(self._output.drawn(head, predicted, frame=True))

    def close(self) -> None:
        for video in self._videos.values():
            video.close()


class PointClouds:
    """Writes clouds/NAME.ply of images with depth. focal: the focal length of all images, in pixels."""

    def __init__(self, output: OutputFolder, focal: float) -> None:
        self._output, self._focal = output, focal

    def write(self, predicted: Predicted) -> None:
        by_head = result_of(predicted).predictions
        keys = [key for predictions in by_head.values() for key in predictions]
        if "depth" not in keys:
            raise DensevitError(
                f"--focal: point clouds need depth in metres, but this model predicts {', '.join(keys)}. Fix: remove "
                "--focal."
            )
        for head in (head for head, predictions in by_head.items() if "depth" in predictions):
            path = self._output.file(head, "clouds", f"{predicted.image.name}.ply")
            image = as_rgb(pixels_of(predicted), self._output.model.channels)
            write_ply(path, np.asarray(by_head[head]["depth"].cpu()), image, self._focal)

    def close(self) -> None: ...
