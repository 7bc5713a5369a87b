"""Splits images with iterative stratification, so that duplicates stay in one split, and merges classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.division import similar_images
from densevit.errors import ConfigError, did_you_mean
from densevit_workbench.interchange.annotated import Annotated, AnnotatedImage, header_and_channels


def split_again(
    annotated: Annotated, shares: Mapping[str, float], seed: int = 0, channels: Channels | None = None
) -> Annotated:
    """Splits all images by shares, and each class by these shares as nearly as possible.

    Identical and nearly identical images stay in one split, unless a chain of near duplicates exceeds the smallest
    split. channels: the images' channels; None: read from the first image. Raises ConfigError for shares of 0 or less,
    and for fewer images than splits.
    """
    if not shares or any(not 0 < share < float("inf") for share in shares.values()):
        raise ConfigError(f"splits: {dict(shares)} are not shares; expected numbers above 0, as in train=0.8,val=0.2.")
    images = [image for split in annotated.splits.values() for image in split]
    if len(images) < len(shares):
        raise ConfigError(f"splits: {len(images)} images cannot be divided into {len(shares)} splits.")
    index = {name: i for i, name in enumerate(annotated.classes)}
    labels = np.zeros((len(images), len(index)), bool)
    for row, image in enumerate(images):
        labels[row, [index[obj.category] for obj in image.objects]] = True
    groups = _groups(images, min(shares.values()) / sum(shares.values()), channels)
    chosen = stratified(labels, list(shares.values()), seed, groups)
    splits = {
        split: [image for image, part in zip(images, chosen.tolist(), strict=True) if part == number]
        for number, split in enumerate(shares)
    }
    return replace(annotated, splits=splits)


def _groups(images: Sequence[AnnotatedImage], least_share: float, channels: Channels | None) -> np.ndarray:
    """The group number of each image, (N,); images of a group stay in one split.

    If a chain of nearly identical images exceeds the smallest split, only identical images form groups.
    """
    first = next((image.path for image in images if channels is None and image.content is None), None)
    channels = (channels or RGB) if first is None else header_and_channels(first)[1]
    scan = similar_images([str(image.path) for image in images], channels)
    similar = scan["similar"]
    return similar if np.bincount(similar).max() <= max(1, least_share * len(images)) else scan["identical"]


def stratified(
    labels: np.ndarray, shares: Sequence[float], seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Assigns rows to parts, (N,), by iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1).

    labels: (N, K) bool, the classes of each row. shares: the share of each part, up to a factor. groups: (N,) group
    numbers; the rows of a group are assigned to the part of its first row in a random order. The rows of the rarest
    remaining class are assigned first, each to the part that needs most rows of this class; ties go to the part that
    needs most rows. Rows without a class come last.
    """
    rng = np.random.default_rng(seed)
    ratio = np.array(shares, np.float64) / sum(shares)
    rows_wanted = len(labels) * ratio  # (P,)
    wanted = labels.sum(axis=0)[None] * ratio[:, None]  # (P, K)
    part = np.full(len(labels), -1)
    order = rng.permutation(len(labels))
    left = labels.sum(axis=0).astype(np.int64)

    def assign(row: int, need: np.ndarray) -> None:
        together = [row] if groups is None else np.flatnonzero(groups == groups[row]).tolist()
        best = np.flatnonzero(need >= need.max() - 1e-9)
        best = best[rows_wanted[best] >= rows_wanted[best].max() - 1e-9]
        chosen = int(best[0] if len(best) == 1 else rng.choice(best))
        part[together] = chosen
        rows_wanted[chosen] -= len(together)
        wanted[chosen] -= labels[together].sum(axis=0)
        left[:] -= labels[together].sum(axis=0)

    while left.any():
        rarest = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        for row in order[labels[order, rarest] & (part[order] < 0)].tolist():
            if part[row] < 0:  # not assigned with its group
                assign(row, wanted[:, rarest])
    for row in order[part[order] < 0].tolist():
        if part[row] < 0:
            assign(row, rows_wanted)
    return part


def merge_classes(annotated: Annotated, merged: Mapping[str, str]) -> Annotated:
    """Renames classes; classes with the same new name are merged, with the id and position of the first.

    merged: the new name of each renamed class. Raises ConfigError for an unknown class.
    """
    for name in merged:
        if name not in annotated.classes:
            raise ConfigError(f"merge: there is no class {name!r}.{did_you_mean(name, annotated.classes)}")
    names = [merged.get(name, name) for name in annotated.classes]
    firsts = [i for i, name in enumerate(names) if name not in names[:i]]
    ids = None if annotated.ids is None else tuple(annotated.ids[i] for i in firsts)

    def renamed(image: AnnotatedImage) -> AnnotatedImage:
        objects = (replace(obj, category=merged.get(obj.category, obj.category)) for obj in image.objects)
        return replace(image, objects=tuple(objects))

    splits = {split: [renamed(image) for image in images] for split, images in annotated.splits.items()}
    return replace(annotated, classes=tuple(names[i] for i in firsts), splits=splits, ids=ids)
