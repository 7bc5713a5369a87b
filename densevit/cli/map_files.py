"""Writes predicted maps as files in one folder per key: semantic/NAME.png, depth/NAME.png, depth/NAME.npy,
panoptic/NAME.png and panoptic.json.

The target types define the formats, see `densevit.targets.maps`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from densevit.data.image_names import checksum, file_name
from densevit.errors import DataError
from densevit.interfaces import Class, Predictions, TargetType
from densevit.targets.types import TargetTypes, as_array


class AnnotatedImage(NamedTuple):
    """An image with an encoded map. image: its id, file_name, width and height. name: the path of the map's files,
    without suffix, relative to their folder. encoded: the ".json" of `TargetType.encode`."""

    image: Mapping[str, Any]
    name: str
    encoded: Any


@runtime_checkable
class SupportsAnnotationFile(Protocol):
    """A target type per pixel that has one ".json" for all images, in place of one per image."""

    def annotation_file(self, images: Sequence[AnnotatedImage], classes: Sequence[Class]) -> Any:
        """JSON values, written as KEY.json beside the folder KEY of the maps."""


class MapFiles:
    """Writes the maps of many images to one folder; with several heads, to one subfolder per head.

    classes: the classes of each head. types: the target types of each head's keys that have options
    (`Head.target_types`). Several processes may write to the same folder; one of them then calls `finish`.
    """

    def __init__(
        self,
        folder: Path,
        classes: Mapping[str, Sequence[Class]],
        types: Mapping[str, Mapping[str, TargetType] | None] | None = None,
    ) -> None:
        self.folder, self.classes = folder, classes
        self.types = {head: TargetTypes((types or {}).get(head)) for head in classes}

    def folder_of(self, head: str) -> Path:
        """Returns the folder of a head's files."""
        return self.folder / head if len(self.classes) > 1 else self.folder

    def add(self, head: str, name: str, predictions: Predictions, image: Mapping[str, Any] | None = None) -> None:
        """Writes a head's maps for one image to folder_of(head)/KEY/name.

        image: the `id` and `file_name` in annotation files; both default to the name.
        """
        for key in self._keys(head, predictions):
            path, value = self.folder_of(head) / key / name, as_array(predictions[key])
            try:
                files = self.types[head][key].encode(value, self.classes[head])
            except DataError as error:
                raise DataError(f"{name}: `{key}` of its prediction {error}") from None
            if files and ".json" in files and isinstance(self.types[head][key], SupportsAnnotationFile):
                height, width = value.shape[-2:]
                entry = {"id": name, "file_name": name, **(image or {}), "width": width, "height": height}
                files = {**files, ".json": AnnotatedImage(entry, name, files[".json"])}
            for suffix, content in (files or {}).items():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path.with_name(path.name + suffix), content)  # `with_suffix` would replace the ".b" of "a.b"

    def add_image(self, head: str, image_id: int | str, predictions: Predictions) -> None:
        """Writes the maps as `file_name(image_id)`, with a checksum of the id appended if that name exists."""
        name = file_name(image_id)
        folders = [(self.folder_of(head) / key / name).parent for key in self._keys(head, predictions)]
        suffixes = (".png", ".npy", ".json")
        if any((folder / (Path(name).name + suffix)).exists() for folder in folders for suffix in suffixes):
            name += f"-{checksum(image_id)}"
        self.add(head, name, predictions, {"id": image_id, "file_name": str(image_id)})

    def finish(self, more_follows: bool = False) -> None:
        """Joins the annotations of all images, in the order of their ids, in KEY.json.

        more_follows: keeps the annotation file of each image, to be joined with those of further images.
        """
        for head in self.classes:
            for folder in [path for path in self.folder_of(head).glob("*") if path.name in self.types[head]]:
                kind = self.types[head][folder.name]
                if not isinstance(kind, SupportsAnnotationFile):
                    continue
                paths = [*folder.rglob("*.json")]
                if not paths:  # joined before
                    continue
                images = [AnnotatedImage(*json.loads(path.read_text(encoding="utf-8"))) for path in paths]
                images.sort(key=lambda entry: (isinstance(entry.image["id"], str), entry.image["id"]))
                _write(folder.with_suffix(".json"), kind.annotation_file(images, self.classes[head]))
                for path in [] if more_follows else paths:
                    path.unlink()

    def is_joined(self) -> bool:
        """Whether the folder has joined annotations, to which further images cannot be added."""
        folders = [self.folder_of(head) / key for head in self.classes for key in self.types[head]]
        return any(path.with_suffix(".json").is_file() and not [*path.rglob("*.json")] for path in folders)

    def _keys(self, head: str, predictions: Predictions) -> list[str]:
        types = self.types[head]
        return [key for key in predictions if key in types and types[key].per == "pixel"]


def _write(path: Path, content: Any) -> None:
    """Writes a PIL image, an array or JSON values."""
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif hasattr(content, "save"):
        content.save(path)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
