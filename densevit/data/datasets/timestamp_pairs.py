"""Pairs images and depth maps of a recording by their timestamps (TUM RGB-D)."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from densevit.data.datasets.file_checks import OnError
from densevit.data.datasets.paired_files import PairPaths, Pairs, find_pairs
from densevit.data.io.text_files import read_text
from densevit.data.outside_paths import check_listed_path
from densevit.errors import DataError, UnreadableFileError, warn_once


def find_times(
    root: Path,
    images: str,
    labels: str,
    seconds: float,
    limit: int | None,
    outside_paths: bool,
    on_error: OnError = "raise",
) -> Pairs:
    """Reads the pairs of all recordings. Raises UnreadableFileError for missing files, or leaves their pairs out.

    images, labels: text files, or patterns of them, with a time in seconds and a file per line, relative to their
    folder; "#" begins a comment. The stars match the recording. seconds: the largest difference in time.
    outside_paths: whether the files may be outside of root and of their list's folder.
    """
    if "*" in images:
        recordings = find_pairs(root, "", PairPaths(images, labels, suffixes=(".txt",)))
        lists = [(os.fsdecode(a), os.fsdecode(b)) for a, b in zip(recordings.images, recordings.labels, strict=True)]
    else:
        lists = [(images, labels)]
    rows: list[tuple[str, str, str]] = []
    lone: list[str] = []
    for image_list, depth_list in lists:
        (times, files), (others, depths) = (_read(root, path, outside_paths) for path in (image_list, depth_list))
        matches = associate(times, others, seconds)
        names = [os.path.splitext(os.path.join(os.path.dirname(image_list), file))[0] for file in files]
        for i, j in matches:
            image = os.path.join(os.path.dirname(image_list), files[i])
            rows.append((names[i], image, os.path.join(os.path.dirname(depth_list), depths[j])))
        lone += [names[i] for i in sorted(set(range(len(files))) - {i for i, _ in matches})]
    if not rows:
        raise DataError(f"{root / lists[0][0]}: no image has a depth map within {seconds} s (data.seconds).")
    missing = [path for _, image, depth in rows for path in (image, depth) if not (root / path).is_file()]
    errors = [
        UnreadableFileError(f"{root / path} does not exist. Fix: copy it there, or remove its line.", "missing files")
        for path in missing
    ]
    if errors and on_error == "raise":
        raise errors[0]
    if errors:
        warn_once(f"{root}: {len(errors):,} files are missing, pairs are left out (data.on_error: skip): {errors[0]}")
    absent = set(missing)
    rows = [row for row in rows if absent.isdisjoint(row[1:])]
    return replace(Pairs.of(rows[:limit], lone), missing=tuple(errors))


def associate(first: Sequence[float], second: Sequence[float], seconds: float) -> list[tuple[int, int]]:
    """Returns indices of pairs less than `seconds` apart, assigned greedily from the nearest, each in at most one pair.

    The rule of TUM's associate.py.
    """
    ours, theirs = np.asarray(first, np.float64), np.asarray(second, np.float64)
    order = np.argsort(theirs, kind="stable")
    low = np.searchsorted(theirs[order], ours - seconds, "left")
    high = np.searchsorted(theirs[order], ours + seconds, "right")
    near = [
        (abs(ours[i] - theirs[j]), ours[i], theirs[j], i, int(j))
        for i, (start, stop) in enumerate(zip(low, high, strict=True))
        for j in order[start:stop]
        if abs(ours[i] - theirs[j]) < seconds
    ]
    left, right, pairs = set(range(len(ours))), set(range(len(theirs))), []
    for *_, i, j in sorted(near):
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            pairs.append((i, j))
    return sorted(pairs)


def _read(root: Path, path: str, outside_paths: bool) -> tuple[list[float], list[str]]:
    """Reads the times and files of a list."""
    times, files = [], []
    for number, line in enumerate(read_text(root / path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        time, _, file = line.strip().partition(" ")
        try:
            times.append(float(time))
        except ValueError:
            file = ""
        if not file:
            raise DataError(f"{root / path}, line {number}: expected a time and a file, not {line!r}.")
        files.append(file.strip())
        if not outside_paths:
            folder = os.path.dirname(path)
            check_listed_path(f"{root / path}, line {number}", os.path.join(folder, files[-1]), root, folder)
    return times, files
