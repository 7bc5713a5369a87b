"""Writes predicted maps as files in one folder per key: semantic/NAME.png, depth/NAME.png, depth/NAME.npy,
panoptic/NAME.png and panoptic.json; for images that are predicted in strips, semantic/NAME.tif or depth/NAME.tif.

The target types define the formats, see `densevit.targets`.
"""

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from densevit.atomic_io import replaced_file
from densevit.data.io.image_names import checksum, file_name
from densevit.errors import DataError, DensevitError
from densevit.interfaces import Class, Predictions, Size, TargetType
from densevit.targets.types import TargetTypes, as_array

TILE = 512  # rows and columns of the tiles of a TIFF
_MAX_TIFF = 1 << 31  # bytes of pixels; larger files are BigTIFF


class AnnotatedImage(NamedTuple):
    """An image with an encoded map. image: its id, file_name, width and height. name: the relative path of the map's
    files, without suffix. encoded: the ".json" of `TargetType.encode`."""

    image: Mapping[str, Any]
    name: str
    encoded: Any


@runtime_checkable
class SupportsAnnotationFile(Protocol):
    """A target type per pixel that writes one json for all images instead of one per image."""

    def annotation_file(self, images: Sequence[AnnotatedImage], classes: Sequence[Class]) -> Any:
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

    def add(
        self, head: str, name: str, predictions: Predictions, image: Mapping[str, Any]
    ) -> dict[str, AnnotatedImage]:
        """Writes a head's maps for one image to folder_of(head)/KEY/name. Returns its entry in KEY.json, by key.

        image: the `id` and `file_name` in that entry.
        """
        entries = {}
        for key in self._keys(head, predictions):
            path, value = self.folder_of(head) / key / name, as_array(predictions[key])
            files = dict(self._encoded(head, key, name, value) or {})
            if ".json" in files and isinstance(self.types[head][key], SupportsAnnotationFile):
                height, width = value.shape[-2:]
                size = {"width": width, "height": height}
                entries[key] = AnnotatedImage({**image, **size}, name, files.pop(".json"))
            for suffix, content in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path.with_name(path.name + suffix), content)  # `with_suffix` would replace the ".b" of "a.b"
        return entries

    def add_strips(
        self, head: str, name: str, strips: Iterator[Predictions], size: Size, step: int
    ) -> dict[str, np.ndarray]:
        """Writes a head's map of an image of this size as a compressed, tiled TIFF, folder_of(head)/KEY/name.tif, with
        the type and the colours of the file that `add` writes; depth in metres, float32.

        strips: the map from top to bottom, TILE rows each, perhaps fewer in the last. Returns by key the pixels whose
        row and column are multiples of `step`. Raises DensevitError unless there is exactly one map. The file appears
        when it is complete.
        """
        import tifffile  # late: most images are no TIFF

        first = next(strips)
        keys = self._keys(head, first)
        if len(keys) != 1:
            raise DensevitError(
                f"{name}: heads.{head} predicts {', '.join(keys) or 'no map'}; one map per head is expected of a large "
                "image. Fix: cut the image into tiles."
            )
        [key] = keys
        decimated: list[np.ndarray] = []

        def encoded(value: np.ndarray) -> tuple[np.ndarray, list[int] | None]:
            """Returns the pixels (h, W) or (h, W, C) of the first file of `TargetType.encode`, and its palette."""
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about files that are not written here
                content = next(iter((self._encoded(head, key, name, value) or {"": value}).values()))
            pixels = np.asarray(content)
            palette = content.getpalette() if isinstance(content, Image.Image) else None
            return pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, -1), palette

        def tiles() -> Iterator[np.ndarray]:
            for top, strip in zip(range(0, size[0], TILE), itertools.chain([first], strips), strict=True):
                value = as_array(strip[key])
                decimated.append(value[..., -top % step :: step, ::step].copy())
                pixels, _ = encoded(value)
                if pixels.dtype != form["dtype"]:
                    raise DensevitError(f"{name}: `{key}` has pixels of no class only from row {top} on.")
                yield from (pixels[:, left : left + TILE] for left in range(0, size[1], TILE))

        pixels, palette = encoded(as_array(first[key]))
        form: dict[str, Any] = {"shape": (size[0], *pixels.shape[1:]), "dtype": pixels.dtype, "tile": (TILE, TILE)}
        form |= {"photometric": "minisblack", "compression": "zlib", "metadata": None, "maxworkers": 1}
        if palette is not None:
            colors = np.reshape(palette, (256, 3)).T.astype(np.uint16) * 257
            form |= {"photometric": "palette", "colormap": colors}
        path = self.folder_of(head) / key / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        is_big = math.prod(form["shape"]) * pixels.dtype.itemsize > _MAX_TIFF
        with replaced_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=is_big) as file:
            file.write(tiles(), **form)
        return {key: np.concatenate(decimated, axis=-2)}

    def add_image(self, head: str, image_id: int | str, predictions: Predictions) -> None:
        """Writes the maps as `file_name(image_id)`, with a checksum of the id if that file exists."""
        name = file_name(image_id)
        folders = [(self.folder_of(head) / key / name).parent for key in self._keys(head, predictions)]
        suffixes = (".png", ".npy", ".json")
        if any((folder / (Path(name).name + suffix)).exists() for folder in folders for suffix in suffixes):
            name += f"-{checksum(image_id)}"
        entries = self.add(head, name, predictions, {"id": image_id, "file_name": str(image_id)})
        for key, entry in entries.items():
            _write(self.folder_of(head) / key / f"{name}.json", entry)

    def finish(self) -> None:
        """Joins the annotations that `add_image` wrote to KEY.json."""
        for head in self.classes:
            for folder in [path for path in self.folder_of(head).glob("*") if path.name in self.types[head]]:
                if isinstance(self.types[head][folder.name], SupportsAnnotationFile):
                    paths = [*folder.rglob("*.json")]
                    images = [AnnotatedImage(*json.loads(path.read_text(encoding="utf-8"))) for path in paths]
                    self.write_annotations(head, folder.name, images)
                    for path in paths:
                        path.unlink()

    def write_annotations(self, head: str, key: str, images: list[AnnotatedImage]) -> None:
        """Writes KEY.json, sorted by image id."""
        target_type = self.types[head][key]
        assert isinstance(target_type, SupportsAnnotationFile)
        images.sort(key=lambda entry: (isinstance(entry.image["id"], str), entry.image["id"]))
        _write(self.folder_of(head) / f"{key}.json", target_type.annotation_file(images, self.classes[head]))

    def _encoded(self, head: str, key: str, name: str, value: np.ndarray) -> Any:
        """Returns the map's files by suffix, see `TargetType.encode`."""
        try:
            return self.types[head][key].encode(value, self.classes[head])
        except DataError as error:
            raise DataError(f"{name}: `{key}` of its prediction {error}") from None

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
