"""Writes what a model sees in pictures: drawn pictures, boxes in COCO's results format, and maps."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from PIL import Image

from densevit.errors import DensevitError
from densevit.evaluation.box_records import coco_results
from densevit.inference.maps import MapFiles
from densevit.inference.point_cloud import write_ply
from densevit.inference.sources import Picture
from densevit.interfaces import Class, Predictions
from densevit.visualization.draw import draw
from densevit.weights.atomic_io import check_free


def check_new_folder(folder: Path) -> Path:
    """The folder, if it is not there yet or is empty; nobody's files are ever overwritten."""
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if folder.exists():
        found = "is not empty" if folder.is_dir() else "is a file"
        raise DensevitError(f"{folder} {found}. Name a new folder, or remove this one first.")
    check_free(folder)
    return folder


def next_free_folder(name: str) -> Path:
    """`name`, or else the first of `name-2`, `name-3`, ... that is not there yet."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    return next(Path(name) for name in names if not Path(name).exists())


class PredictionFiles:
    """A folder of predictions, written as they come; whole also where the work is broken off.

    drawn/NAME.jpg: objects from `threshold` on. predictions.json: all of them, a list of COCO results.
    semantic/NAME.png, depth/NAME: maps (see `maps`). clouds/NAME.ply: depth as points, where there is a focal length.
    images.json: which picture an image id stands for. With several heads, each has a folder of all but the last.

    focal: of all pictures' camera, in their pixels.
    """

    def __init__(
        self, folder: Path, classes: Mapping[str, Sequence[Class]], threshold: float, focal: float | None = None
    ) -> None:
        self.folder, self.classes, self.threshold, self.focal = folder, classes, threshold, focal
        self._maps = MapFiles(folder, classes)
        self._lists: dict[Path, _JsonList] = {}

    def __enter__(self) -> "PredictionFiles":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._list(self.folder / "images.json")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for json_list in self._lists.values():
            json_list.close()

    def add(self, picture: Picture, pixels: np.ndarray, found: Predictions | Mapping[str, Predictions]) -> None:
        """Writes one picture's files. pixels: (H, W, 3) uint8. found: predictions, or a dict of them by head's name."""
        height, width = pixels.shape[:2]
        image = {"id": picture.image_id, "file_name": picture.path.as_posix(), "width": width, "height": height}
        self._list(self.folder / "images.json").append(image)
        if len(self.classes) == 1:
            found = {next(iter(self.classes)): found}
        if self.focal is not None and not any("depth" in predictions for predictions in found.values()):
            raise DensevitError(
                "--focal makes point clouds of depth in metres, but this model predicts "
                f"{', '.join(key for predictions in found.values() for key in predictions)}. Leave it out."
            )
        for head, predictions in found.items():
            folder = self._maps.folder_of(head)
            file = folder / "drawn" / f"{picture.name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn = draw(pixels, predictions, self.classes[head], self.threshold)
            Image.fromarray(drawn).save(file, quality=92)
            self._maps.add(head, picture.name, predictions)
            if self.focal is not None and "depth" in predictions:
                cloud = folder / "clouds" / f"{picture.name}.ply"
                cloud.parent.mkdir(exist_ok=True)
                write_ply(cloud, np.asarray(predictions["depth"].cpu()), pixels, self.focal)
            if "boxes" in predictions:
                boxes, scores, labels = (np.asarray(predictions[key]) for key in ("boxes", "scores", "labels"))
                entries = coco_results(picture.image_id, boxes, scores, labels, self.classes[head])
                self._list(folder / "predictions.json").extend(entries)

    def _list(self, path: Path) -> "_JsonList":
        if path not in self._lists:
            self._lists[path] = _JsonList(path)
        return self._lists[path]


class _JsonList:
    """A JSON list on disk, one entry a line, so that a hundred thousand pictures' boxes are never in memory at once."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._file.write("[")
        self._between = "\n"

    def append(self, entry: Mapping[str, Any]) -> None:
        self._file.write(self._between + json.dumps(entry))
        self._between = ",\n"

    def extend(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            self.append(entry)

    def close(self) -> None:
        self._file.write("\n]\n")
        self._file.close()
