"""Writers of drawings and point clouds, one file per image, and of drawn videos, one file per video."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.datasets.depth_maps import file_types
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.map_files import MapFiles
from densevit.drawing.draw import draw
from densevit.drawing.point_cloud import write_ply
from densevit.errors import DensevitError
from densevit.inference.result import Result
from densevit.interfaces import Class
from densevit.model import InferenceModel
from densevit.targets.pixel_maps import Depth
from densevit.targets.target_class_mapping import plain_name
from densevit_batch.drawn_video import DrawnVideo
from densevit_batch.image_file import ImageFile


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

    def units(self) -> list[str]:
        """A line for each folder of depth maps with the unit of its PNG files."""
        return [
            f"{folder}: PNG in units of {types['depth'].scale:g} m"
            for head, types in self.maps.types.items()
            if (folder := self.maps.folder_of(head) / "depth").is_dir() and isinstance(types["depth"], Depth)
        ]

    def file(self, head: str, folder: str, name: str) -> Path:
        """The path of a head's file; creates its folder."""
        path = self.maps.folder_of(head) / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def drawn(self, head: str, pixels: np.ndarray, result: Result, frame: bool = False) -> np.ndarray:
        """The visualization of a head's predictions, (H, W, 3) uint8. pixels: (H, W, C). frame: keeps the size of the
        image."""
        types, channels, lowest = self.maps.types[head], self.model.channels, self.thresholds[head]
        return draw(pixels, result.predictions[head], self.maps.classes[head], lowest, None, types, frame, channels)


def with_file_ids(classes: Sequence[Class], ids: Mapping[str, int]) -> tuple[Class, ...]:
    """The classes with the file ids of equal names, or else of equal `plain_name`; others get the ids after the largest
    one. ids: the file ids by name; {}: the classes are returned unchanged."""
    names = {plain_name(name): file_id for name, file_id in ids.items()} | {**ids}
    free = itertools.count(max(ids.values(), default=0) + 1)
    keyed = ((c, c.name if c.name in ids else plain_name(c.name)) for c in classes)
    return tuple(replace(c, file_id=names[key] if key in names else next(free)) if ids else c for c, key in keyed)


def write_drawing(output: OutputFolder, count: int, image: ImageFile, pixels: np.ndarray, result: Result) -> None:
    """Writes drawn/NAME.jpg of the first `count` images of the list. pixels: (H, W, C). Several threads may call it."""
    for head in result.predictions if image.index < count else ():
        path = output.file(head, "drawn", f"{image.name}.jpg")
        Image.fromarray(output.drawn(head, pixels, result)).save(path, quality=92)


def write_clouds(output: OutputFolder, focal: float, image: ImageFile, pixels: np.ndarray, result: Result) -> None:
    """Writes clouds/NAME.ply of an image with depth. focal: the focal length of all images, in pixels. pixels:
    (H, W, C). Several threads may call it."""
    by_head = result.predictions
    keys = [key for predictions in by_head.values() for key in predictions]
    if "depth" not in keys:
        raise DensevitError(
            f"--focal: point clouds need depth in metres, but this model predicts {', '.join(keys)}. Fix: remove "
            "--focal."
        )
    for head in (head for head, predictions in by_head.items() if "depth" in predictions):
        path = output.file(head, "clouds", f"{image.name}.ply")
        rgb = as_rgb(pixels, output.model.channels)
        write_ply(path, np.asarray(by_head[head]["depth"].cpu()), rgb, focal)


class DrawnVideos:
    """Writes drawn/NAME.mp4 of each video. Frames must come in order, one video after the other."""

    def __init__(self, output: OutputFolder) -> None:
        self._output, self._videos = output, dict[str, DrawnVideo]()  # the open video of each head

    def write(self, image: ImageFile, pixels: np.ndarray, result: Result) -> None:
        name = f"{Path(image.name).name.rpartition('_')[0]}.mp4"
        for head in result.predictions:
            path, drawn = self._output.file(head, "drawn", name), self._output.drawn(head, pixels, result, frame=True)
            if head in self._videos and self._videos[head].path != path:
                self._videos.pop(head).close()
            if head not in self._videos:
                self._videos[head] = DrawnVideo(path, image.path, drawn.shape[:2])
            self._videos[head].add(drawn)

    def close(self) -> None:
        for video in self._videos.values():
            video.close()
