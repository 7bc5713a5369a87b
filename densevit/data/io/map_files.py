"""Writes predicted maps as files in one folder per key: semantic/NAME.png, depth/NAME.png, depth/NAME.npy,
panoptic/NAME.png and panoptic.json.

The target types define the formats (`densevit.targets`).
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from densevit.data.io.image_names import checksum, file_name
from densevit.errors import DataError
from densevit.interfaces import Class, Predictions, TargetType
from densevit.targets.types import TargetTypes, as_array


class EncodedMap(NamedTuple):
    """An image with an encoded map. image: its id, file_name, width and height. name: the relative path of the map's
    files, without suffix. encoded: the ".json" of `TargetType.encode`."""

    image: Mapping[str, Any]
    name: str
    encoded: Any


@runtime_checkable
class SupportsAnnotationFile(Protocol):
    """A target type per pixel that writes one json for all images instead of one per image."""

    def annotation_file(self, images: Sequence[EncodedMap], classes: Sequence[Class]) -> Any:
        """Returns JSON values, to be written as KEY.json next to the folder KEY of the maps."""


class MapFiles:
    """Writes the maps of many images to one folder; with several heads, to one subfolder per head.

    classes: the classes of each head. types: each head's target types with options (`Head.target_types`). Several
    processes may write to the same folder; afterwards one of them calls `finish`.
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

    def add(self, head: str, name: str, predictions: Predictions, image: Mapping[str, Any]) -> dict[str, EncodedMap]:
        """Writes a head's maps for one image to folder_of(head)/KEY/name. Returns its entry in KEY.json, by key.

        image: the `id` and `file_name` in that entry.
        """
        entries = {}
        for key in self.keys(head, predictions):
            path, value = self.folder_of(head) / key / name, as_array(predictions[key])
            files = dict(self.encoded(head, key, name, value) or {})
            if ".json" in files and isinstance(self.types[head][key], SupportsAnnotationFile):
                height, width = value.shape[-2:]
                size = {"width": width, "height": height}
                entries[key] = EncodedMap({**image, **size}, name, files.pop(".json"))
            for suffix, content in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                # `with_suffix` would replace the ".b" of "a.b"
                path.with_name(path.name + suffix).write_bytes(as_bytes(content))
        return entries

    def add_image(self, head: str, image_id: int | str, predictions: Predictions) -> None:
        """Writes the maps as `file_name(image_id)`, with a checksum of the id if that file exists."""
        name = file_name(image_id)
        folders = [(self.folder_of(head) / key / name).parent for key in self.keys(head, predictions)]
        suffixes = (".png", ".npy", ".json")
        if any((folder / (Path(name).name + suffix)).exists() for folder in folders for suffix in suffixes):
            name += f"-{checksum(image_id)}"
        entries = self.add(head, name, predictions, {"id": image_id, "file_name": str(image_id)})
        for key, entry in entries.items():
            (self.folder_of(head) / key / f"{name}.json").write_bytes(as_bytes(entry))

    def finish(self) -> None:
        """Joins the annotations that `add_image` wrote to KEY.json."""
        for head in self.classes:
            for folder in [path for path in self.folder_of(head).glob("*") if path.name in self.types[head]]:
                if isinstance(self.types[head][folder.name], SupportsAnnotationFile):
                    paths = [*folder.rglob("*.json")]
                    images = [EncodedMap(*json.loads(path.read_text(encoding="utf-8"))) for path in paths]
                    self.write_annotations(head, folder.name, images)
                    for path in paths:
                        path.unlink()

    def write_annotations(self, head: str, key: str, images: list[EncodedMap]) -> None:
        """Writes KEY.json, sorted by image id."""
        target_type = self.types[head][key]
        assert isinstance(target_type, SupportsAnnotationFile)
        images.sort(key=lambda entry: (isinstance(entry.image["id"], str), entry.image["id"]))
        content = as_bytes(target_type.annotation_file(images, self.classes[head]))
        (self.folder_of(head) / f"{key}.json").write_bytes(content)

    def encoded(self, head: str, key: str, name: str, value: np.ndarray) -> Any:
        """Returns the map's files by suffix (`TargetType.encode`)."""
        try:
            return self.types[head][key].encode(value, self.classes[head])
        except DataError as error:
            raise DataError(f"{name}: `{key}` of its prediction {error}") from None

    def keys(self, head: str, predictions: Predictions) -> list[str]:
        """The keys of maps."""
        types = self.types[head]
        return [key for key in predictions if key in types and types[key].per == "pixel"]


def as_bytes(content: Any) -> bytes:
    """Encodes a PIL image as PNG, an array as NPY, other values as JSON."""
    file = io.BytesIO()
    if isinstance(content, np.ndarray):
        np.save(file, content)
    elif hasattr(content, "save"):
        content.save(file, "png")
    else:
        file.write(json.dumps(content).encode())
    return file.getvalue()
