"""Features of a frozen backbone, computed once for each image and kept on disk (`backbone.cache`)."""

import hashlib
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densevit.data.datasets.scan_cache import cache_folder
from densevit.errors import ConfigError, DensevitError
from densevit.model import DenseModel
from densevit.model.backbone_digest import as_bytes, backbone_digest
from densevit.model.contract_checks import check_features

_DTYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
_DIGEST = 16  # bytes that identify an image
_FREE = 1 << 30  # bytes of the disk that stay free
_LIMIT = 100 << 30  # bytes of all caches together
_DAY = 86400  # seconds; a cache that was used since is not removed


@contextmanager
def cached_features(model: DenseModel, precision: str | None, images: int) -> Iterator[None]:
    """Within it, the model reads features from a `FeatureCache` with these arguments, unless `precision` is None;
    afterwards from its backbone, whose weights may change then."""
    former = model.cache
    if precision is not None:
        model.cache = FeatureCache(model, precision, images)
    try:
        yield
    finally:
        model.cache = former


class FeatureCache:
    """The feature maps of a frozen backbone, from files for images that were seen before, also in earlier runs: the
    `cache` of a `DenseModel`.

    precision: "fp32" or "fp16", in which features are stored. images: number of images of the run, to check the free
    disk space at the first of them. Raises ConfigError for a head that takes tokens of the backbone.

    An image is identified by its normalised pixels with padding, so that a transform, a size or channels that change it
    never meet old features; a folder belongs to the backbone's weights and buffers. Each process appends to its own
    files, `HxW-ID.features` and, once a row is complete, its identity to `HxW-ID.images`.
    """

    def __init__(self, model: DenseModel, precision: str, images: int) -> None:
        if os.environ.get("DENSEVIT_CACHE") == "off":
            raise ConfigError("backbone.cache is set, but DENSEVIT_CACHE is off. Fix: unset one of them.")
        if heads := [name for name, head in model.heads.items() if head.last_blocks is not None]:
            raise ConfigError(
                f"backbone.cache is {precision}, but heads.{heads[0]} takes tokens, which are not cached. Fix: "
                "backbone.cache=null, or another head."
            )
        self._model, self._backbone, self._precision, self._images = model, model.backbone, precision, images
        self._dtype = _DTYPES[precision]
        self._rows: dict[bytes, tuple[Path, int]] = {}  # file and number of a row
        self._written: dict[Path, int] = {}

    def _open(self) -> None:
        """Finds the stored rows: at the first images, as a resumed run gets its weights after the cache is built."""
        self.folder = cache_folder() / "features" / f"{backbone_digest(self._model)}-{self._precision}"
        self._name = uuid.uuid4().hex[:12]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)
            for index in sorted(self.folder.glob("*.images")):
                features, identities = index.with_suffix(".features"), index.read_bytes()
                shapes = self._shapes([int(side) for side in index.stem.partition("-")[0].split("x")])
                stored = features.stat().st_size // (self._dtype.itemsize * sum(map(math.prod, shapes)))
                for row in range(min(len(identities) // _DIGEST, stored)):
                    self._rows[identities[row * _DIGEST : (row + 1) * _DIGEST]] = (features, row)
        except OSError as error:
            raise DensevitError(f"backbone.cache: {error}. Fix: set DENSEVIT_CACHE to a folder on a disk.") from None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """The feature maps of normalised images (B, C, H, W)."""
        is_first = not self._rows
        if is_first:
            self._open()
        keys = [_identity(image) for image in images]
        if missing := [i for i, key in enumerate(keys) if key not in self._rows]:
            computed = self._backbone(images[missing])
            check_features("backbone", self._backbone, computed, images.shape[-2:])
            if not self._written:
                self._make_room(sum(x[0].numel() for x in computed) * self._dtype.itemsize)
            self._append([keys[i] for i in missing], computed, images.shape[-2:])
        shapes = self._shapes(images.shape[-2:])
        rows = np.stack([self._read(key, sum(map(math.prod, shapes))) for key in keys])
        parts = torch.from_numpy(rows).to(images.device, images.dtype).split([math.prod(s) for s in shapes], 1)
        features = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        if is_first:
            self._check([x[:1] for x in features], self._backbone(images[:1]))
        return features

    def _shapes(self, size: Sequence[int]) -> list[list[int]]:
        """The shapes (C, h, w) of an image's maps."""
        levels = zip(self._backbone.channels, self._backbone.strides, strict=True)
        return [[channels, *(math.ceil(side / stride) for side in size)] for channels, stride in levels]

    def _read(self, key: bytes, length: int) -> np.ndarray:
        file, row = self._rows[key]
        return np.memmap(file, self._dtype, "r", row * length * self._dtype.itemsize, (length,))

    def _append(self, keys: Sequence[bytes], features: Sequence[Tensor], size: Sequence[int]) -> None:
        values = torch.cat([x.flatten(1).float() for x in features], 1).cpu().numpy()
        if np.abs(values).max() > np.finfo(self._dtype).max:
            raise ConfigError(
                f"backbone.cache: a feature is {np.abs(values).max():g}, too large for fp16. Fix: backbone.cache=fp32."
            )
        file = self.folder / f"{size[0]}x{size[1]}-{self._name}.features"
        try:
            with open(file, "ab") as written:
                written.write(values.astype(self._dtype).tobytes())
            with open(file.with_suffix(".images"), "ab") as written:
                written.write(b"".join(keys))
        except OSError as error:
            raise DensevitError(
                f"backbone.cache: {file}: {error.strerror}. Fix: free disk space, or backbone.cache=null."
            ) from None
        first = self._written.get(file, 0)
        self._rows |= {key: (file, first + i) for i, key in enumerate(keys)}
        self._written[file] = first + len(keys)

    def _check(self, stored: Sequence[Tensor], computed: Sequence[Tensor]) -> None:
        """Raises ConfigError if the stored features of an image are not those that the backbone computes now."""
        pairs = zip(stored, computed, strict=True)
        difference = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)
        if not difference <= 1e-2:
            raise ConfigError(
                f"backbone.cache: the backbone gives other features than {self.folder} has of the same image (by "
                f"{difference:.0%} of the largest): it is random in evaluation mode, or its code has changed. Fix: "
                "delete the folder, or backbone.cache=null."
            )

    def _make_room(self, bytes_per_image: int) -> None:
        """Removes caches that were not used for long. Raises DensevitError if the disk has too little space for all
        images of this size."""
        needed = self._images * bytes_per_image
        caches = sorted(self.folder.parent.iterdir(), key=lambda cache: cache.stat().st_mtime)
        sizes = {cache: sum(file.stat().st_size for file in cache.iterdir()) for cache in caches}
        written = sizes.pop(self.folder)
        for cache in [*sizes]:
            if sum(sizes.values()) + needed > _LIMIT and time.time() - cache.stat().st_mtime > _DAY:
                shutil.rmtree(cache, ignore_errors=True)
                del sizes[cache]
        room = min(shutil.disk_usage(self.folder).free + written - _FREE, _LIMIT - sum(sizes.values()))
        if needed > room:
            raise DensevitError(
                f"backbone.cache: the features of {self._images:,} images need {needed / 1e9:.1f} GB, and "
                f"{self.folder.parent} has room for {max(room, 0) / 1e9:.1f} GB. Fix: backbone.cache=fp16 or null; or "
                "set DENSEVIT_CACHE to a folder on another disk."
            )


def _identity(image: Tensor) -> bytes:
    """Identifies an image and the precision of its features."""
    device = image.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else image.dtype
    digest = hashlib.blake2b(f"{tuple(image.shape)}{half}".encode(), digest_size=_DIGEST)
    digest.update(as_bytes(image))
    return digest.digest()
