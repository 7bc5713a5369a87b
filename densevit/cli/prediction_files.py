"""The files of `densevit predict`: visualizations, boxes in COCO's results format, maps and point clouds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from densevit.atomic_io import atomic_file, check_new_folder
from densevit.channels import RGB, Channels
from densevit.cli.drawn_video import DrawnVideo
from densevit.cli.entry_lists import CsvTable, JsonList, read_entries
from densevit.cli.input_images import ImageFile
from densevit.cli.map_files import MapFiles
from densevit.cli.parquet_files import ParquetFiles
from densevit.cli.prediction_entries import csv_rows, json_entries, json_lines
from densevit.cli.prediction_parts import PARTS
from densevit.data.io.channel_files import as_rgb
from densevit.data.io.large_tiff import LargeTiff
from densevit.drawing.draw import MAX_SIDE, draw
from densevit.errors import DataError, DensevitError, WeightsError
from densevit.inference.point_cloud import write_ply
from densevit.inference.result import text_of
from densevit.interfaces import Class, Predictions, TargetType
from densevit.targets.types import as_array

SETTINGS = "predict.json"


class EncodedObjects(NamedTuple):
    """The objects of one head in an image, and its predictions per image.

    lines: the text for predictions.json. header, rows: the columns and rows for predictions.csv. listed, total: the
    numbers of objects with a score, in the table and in all.
    """

    lines: str
    header: dict[str, Any] | None
    rows: list[dict[str, Any]]
    listed: int
    total: int


class EncodedImage(NamedTuple):
    """What `PredictionFiles.append` writes for an image.

    entry: its row of images.json: id, file_name, width and height, and name, the path of its own files (drawn/NAME.jpg)
    without suffix. text: the predictions per image as text. objects: the objects by head. frames:
    (H, W, 3) uint8 of drawn videos, by head. results: the predictions by head.
    """

    file: ImageFile
    entry: dict[str, Any]
    text: str
    objects: dict[str, EncodedObjects]
    frames: dict[str, np.ndarray]
    results: Mapping[str, Predictions]


class PredictionFiles:
    """Writes predictions to a folder image by image. The files are complete even after an error, and can be continued.

    drawn/NAME.jpg: visualization with the objects above the head's threshold; with `video`, the frames of a video are
    drawn to drawn/NAME.mp4. predictions.csv: numbers and texts of these objects, or values per image; predictions.json:
    all objects in COCO's results format. semantic/NAME.png, depth/NAME, panoptic/NAME.png and panoptic.json: maps (see
    `MapFiles`). clouds/NAME.ply: point cloud, if `focal` is given. images.json: image ids and file names. With several
    heads, each has a subfolder with all but images.json. The target types encode the predictions.

    thresholds: scores by head. types: the target types of each head's keys that have options. focal: focal length in
    pixels, the same for all images. settings: the settings that the predictions depend on, saved in predict.json.
    resume: continues in a folder with the same settings. parquet: writes images.parquet and objects.parquet (see
    `ParquetFiles`) in place of images.json and predictions.json. text_ids: whether an id of the list is text. lists:
    the folder of the files of all images, for a part of a prediction, which has its settings already; None: `folder`.
    channels: those of the images. done: ids of the images that the folder already has. objects: the numbers of objects
    of each head in the table and in total, for the images added.
    """

    def __init__(
        self,
        folder: Path,
        classes: Mapping[str, Sequence[Class]],
        thresholds: Mapping[str, float],
        focal: float | None = None,
        types: Mapping[str, Mapping[str, TargetType] | None] | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        video: bool = False,
        parquet: bool = False,
        text_ids: bool = False,
        lists: Path | None = None,
        channels: Channels = RGB,
    ) -> None:
        self.folder, self.classes, self.thresholds, self.focal = folder, classes, thresholds, focal
        self.settings, self._is_part, self._folder = dict(settings or {}), lists is not None, lists or folder
        self._maps = MapFiles(folder, classes, types)
        by_head = {head: (self._lists_of(head), classes[head], self._maps.types[head]) for head in classes}
        self._parquet = ParquetFiles(self._folder, by_head, thresholds, text_ids) if parquet else None
        self._lists: dict[Path, JsonList | CsvTable] = {}
        self._channels = channels
        self._video, self._videos = video, dict[str, DrawnVideo]()  # by head
        self.done: set[int | str] = set()
        self._file_names: dict[int | str, str] = {}
        self.objects: dict[str, tuple[int, int]] = {}
        if resume:
            if not self._is_part:
                check_settings(folder, self.settings)
            self._file_names = {entry["id"]: entry["file_name"] for entry in read_entries(self._folder / "images.json")}
            self.done = {*self._file_names}

    def __enter__(self) -> "PredictionFiles":
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._is_part:
            write_settings(self.folder / SETTINGS, self.settings)
        names = ("predictions.json", "predictions.csv")
        found = [self._lists_of(head) / name for head in self.classes for name in names]
        if self._parquet is not None:
            self._parquet.begin(self.done)
        else:
            found.insert(0, self._folder / "images.json")
        for path in [path for path in found if path.is_file() or path.name == "images.json"]:
            self._table(path) if path.suffix == ".csv" else self._json(path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for video in self._videos.values():
                video.close()
        finally:
            for file in self._lists.values():
                file.close()
            if self._parquet is not None:
                self._parquet.close()
            if not self._is_part:
                self._maps.finish(more_follows=kind is not None)

    def remaining(self, images: Sequence[ImageFile]) -> list[ImageFile]:
        """Returns the images that are not predicted yet.

        Returns all images if some remain and the folder's annotations are already joined. Raises DensevitError if an id
        is that of another file than before, as ids are names, or paths of files with equal names.
        """
        if self._parquet is not None:
            self._file_names = self._parquet.file_names(images)
            self.done = {*self._file_names}
        ids = {name: image_id for image_id, name in self._file_names.items()}
        for image in images:
            before = self._file_names.get(image.image_id, image.file_name)
            if before != image.file_name or ids.get(before, image.image_id) != image.image_id:
                raise DensevitError(
                    f"--resume: {self.folder} has the id {ids[before]!r} for {before}, but now {image.file_name} has "
                    f"the id {image.image_id!r}: files were added or removed whose names are equal. Fix: name a new "
                    "folder."
                )
        remaining = [image for image in images if image.image_id not in self.done]
        if remaining and self.done and self._maps.is_joined():
            self.done, remaining = set(), [*images]
        return remaining

    def add(self, file: ImageFile, pixels: np.ndarray, results: Predictions | Mapping[str, Predictions]) -> str:
        """Encodes and appends an image in the calling thread; see `encode` and `append`."""
        return self.append(self.encode(file, pixels, results))

    def encode(
        self,
        file: ImageFile,
        pixels: np.ndarray,
        results: Predictions | Mapping[str, Predictions],
        drawn: bool = True,
    ) -> EncodedImage:
        """Writes the files of one image only, and encodes its entries in the files of all images. Several threads may
        do so.

        pixels: (H, W, C). results: the predictions, by head if there are several. drawn: whether it is drawn.
        """
        height, width = pixels.shape[:2]
        image = {"id": file.image_id, "file_name": file.file_name, "width": width, "height": height}
        if len(self.classes) == 1:
            results = {next(iter(self.classes)): results}
        if self.focal is not None and not any("depth" in predictions for predictions in results.values()):
            raise DensevitError(
                "--focal: point clouds need depth in metres, but this model predicts "
                f"{', '.join(key for predictions in results.values() for key in predictions)}. Fix: remove --focal."
            )
        objects, frames = {}, {}
        for head, predictions in results.items():
            folder, types = self._maps.folder_of(head), self._maps.types[head]
            if drawn and self._video:
                frames[head] = self._visualization(head, pixels, predictions)
            elif drawn:
                self._draw(head, file.name, pixels, predictions)
            self._maps.add(head, file.name, predictions, image)
            if self.focal is not None and "depth" in predictions:
                cloud = folder / "clouds" / f"{file.name}.ply"
                cloud.parent.mkdir(parents=True, exist_ok=True)
                write_ply(cloud, np.asarray(predictions["depth"].cpu()), as_rgb(pixels, self._channels), self.focal)
            entries = json_entries(file.image_id, predictions, self.classes[head], types)
            if entries is not None:
                objects[head] = self._encoded(head, file.file_name, entries)
        texts = (self._text(head, predictions) for head, predictions in results.items())
        return EncodedImage(file, image | {"name": file.name}, "; ".join(filter(None, texts)), objects, frames, results)

    def add_strips(
        self,
        file: ImageFile,
        image: LargeTiff,
        strips: Mapping[str, Iterator[Predictions]],
        drawn: bool = True,
    ) -> str:
        """Writes and appends an image and its maps by head, given in strips; see `MapFiles.add_strips`.

        The visualization is of at most MAX_SIDE pixels on a side: every n-th pixel of the image and of the map.
        """
        _, height, width = image.shape
        step = -(-max(height, width) // MAX_SIDE)
        for head, own in strips.items():
            predictions = self._maps.add_strips(head, file.name, own, (height, width), step)
            if drawn:
                self._draw(head, file.name, image.decimated(step), predictions)
        entry = {"id": file.image_id, "file_name": file.file_name, "width": width, "height": height, "name": file.name}
        return self.append(EncodedImage(file, entry, "", {}, {}, {}))

    def append(self, encoded: EncodedImage) -> str:
        """Appends an image to the files of all images.

        Returns the predictions per image as text (see `SupportsText`), such as "cat 0.93"; empty if there is none.
        """
        for head, frame in encoded.frames.items():
            self._video_of(head, encoded.file).add(frame)
        for head, objects in encoded.objects.items():
            folder = self._lists_of(head)
            if self._parquet is None:
                self._json(folder / "predictions.json").extend(objects.lines)
            table = self._table(folder / "predictions.csv")
            if objects.header is not None:
                table.begin(objects.header)
            table.extend(objects.rows)
            if objects.total:
                listed, total = self.objects.get(head, (0, 0))
                self.objects[head] = listed + objects.listed, total + objects.total
        for opened in self._lists.values():
            opened.flush()
        if self._parquet is not None:
            self._parquet.add(encoded.entry, encoded.results)
        else:
            images = self._json(self._folder / "images.json")  # last, so that images in it are complete
            images.extend(json.dumps(encoded.entry))
            images.flush()
        return encoded.text

    def add_failed(self, image: ImageFile) -> None:
        """Adds an image that could not be read to the table of images. Not while images are appended."""
        if self._parquet is not None:
            self._parquet.add_failed(image.image_id, image.file_name)

    def _lists_of(self, head: str) -> Path:
        return self._folder / head if len(self.classes) > 1 else self._folder

    def _visualization(self, head: str, pixels: np.ndarray, predictions: Predictions) -> np.ndarray:
        classes, types = self.classes[head], self._maps.types[head]
        return draw(pixels, predictions, classes, self.thresholds[head], None, types, self._video, self._channels)

    def _draw(self, head: str, name: str, pixels: np.ndarray, predictions: Predictions) -> None:
        """Writes drawn/NAME.jpg."""
        path = self._maps.folder_of(head) / "drawn" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self._visualization(head, pixels, predictions)).save(path, quality=92)

    def _text(self, head: str, predictions: Predictions) -> str:
        types, classes = self._maps.types[head], self.classes[head]
        values = {key: value for key, value in predictions.items() if key in types and types[key].per == "image"}
        texts = (text_of(types[key], as_array(value), classes) for key, value in values.items())
        return " ".join(filter(None, texts))

    def _encoded(self, head: str, file_name: str, entries: Sequence[Mapping[str, Any]]) -> EncodedObjects:
        """Encodes entries; those with a score below the head's threshold are not in the table."""
        classes, lowest = self.classes[head], self.thresholds[head]
        listed = [entry for entry in entries if entry.get("score") is None or entry["score"] >= lowest]
        header = csv_rows(entries[:1], file_name, classes)
        scored = [sum(entry.get("score") is not None for entry in found) for found in (listed, entries)]
        rows = csv_rows(listed, file_name, classes)
        lines = json_lines(entries) if self._parquet is None else ""
        return EncodedObjects(lines, next(iter(header), None), rows, *scored)

    def _video_of(self, head: str, file: ImageFile) -> DrawnVideo:
        """Returns the drawn video of a head for a frame, after completing the one of another file."""
        path = self._maps.folder_of(head) / "drawn" / f"{Path(file.name).name.rpartition('_')[0]}.mp4"
        video = self._videos.get(head)
        if video is None or video.path != path:
            if video is not None:
                video.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            video = self._videos[head] = DrawnVideo(path, file.path)
        return video

    def _json(self, path: Path) -> JsonList:
        found = self._lists.get(path) or self._lists.setdefault(path, JsonList(path, self.done))
        assert isinstance(found, JsonList)
        return found

    def _table(self, path: Path) -> CsvTable:
        found = self._lists.get(path) or self._lists.setdefault(path, CsvTable(path, self.done))
        assert isinstance(found, CsvTable)
        return found


def continue_hint(folder: Path) -> str:
    """The fix for a folder that is not empty, if its predictions can be continued; empty for another one."""
    return ", or add --resume to continue in it" if (folder / SETTINGS).is_file() else ""


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises DensevitError if the folder has no predictions or was written with another model or other settings.

    settings: the settings, among them the model's source as `model`, and its fingerprint as `weights`.
    """
    saved = check_model(folder, str(settings.get("model")), settings.get("weights"))
    current = json.loads(json.dumps(dict(settings)))
    if PARTS in current and PARTS not in saved:
        raise DensevitError(
            f"{folder} has no parts: one process predicts it, or its parts are joined. Fix: continue it with --resume, "
            "without --part and --devices; or name a new folder."
        )
    changed = [key for key in {**saved, **current} if key != "model" and saved.get(key) != current.get(key)]
    if changed:
        listed = "; ".join(f"{key} is {current.get(key)!r}, was {saved.get(key)!r}" for key in changed)
        raise DensevitError(f"{folder} was predicted with other settings: {listed}. Fix: name a new folder.")


def begin_parts(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a prediction in parts, unless another process has. Raises DensevitError for a folder of
    other files or other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    has_others = any(not path.name.startswith(file.stem) for path in folder.iterdir())
    if not file.is_file():
        if has_others:
            check_new_folder(folder)
        with suppress(WeightsError), atomic_file(file) as partial:
            write_settings(partial, settings)
    check_settings(folder, settings)


def write_settings(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def check_model(folder: Path, source: str, fingerprint: str | None) -> dict[str, Any]:
    """Returns the settings of the predictions in a folder. Raises DensevitError if it has none, and if they are those
    of another model.

    source: the model's source, for messages. fingerprint: the model's, see `Predictor.fingerprint`; None: unknown.
    """
    saved = read_settings(folder)
    if saved.get("weights") != fingerprint:
        raise DensevitError(
            f"{folder} has the predictions of another model: of {saved.get('model')!r}, whose classes or weights are "
            f"not those of {source!r}. Fix: name that model, or predict with this one into a new folder."
        )
    return saved


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of the predictions in a folder. Raises DensevitError if it has none."""
    file = folder / SETTINGS
    if not file.is_file():
        raise DensevitError(f"{folder} has no {SETTINGS}, and so no predictions that `densevit predict` wrote.")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: expected the settings of a prediction as JSON; found: {error}") from None
