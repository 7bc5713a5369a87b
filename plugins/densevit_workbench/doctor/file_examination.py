"""Checks the files of a split one by one, and its label maps or depth maps as a whole."""

import os
from collections.abc import Sequence
from pathlib import Path

from densevit.data.datasets import depth_range
from densevit.data.datasets.coco_geometry import MISPLACED
from densevit.data.datasets.coco_panoptic import CocoPanoptic
from densevit.data.datasets.depth_maps import DepthMaps
from densevit.data.datasets.file_checks import SupportsCheckFile, for_each
from densevit.data.datasets.image_files import image_suffixes
from densevit.data.datasets.label_maps import LabelMaps
from densevit.data.datasets.list_files import entry_of
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.pair_paths import PairPaths, list_files
from densevit.data.datasets.paired_dataset import PairedDataset
from densevit.data.datasets.split_folders import matches, split_path
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.interfaces import Dataset
from densevit_workbench.doctor.findings import Findings


def examine_files(dataset: Dataset, opened: Sequence[int], findings: Findings) -> set[int]:
    """Runs the data set's checks on files of some images, and reports errors. Returns the indices with errors."""
    missing = set(dataset.missing) if isinstance(dataset, MeasuredImages) else set()
    paths = [dataset.path(index) for index in sorted(missing)] if isinstance(dataset, MeasuredImages) else []
    fix = "Copy them to these paths, or remove them from the annotations."
    findings.report("error", "missing images", sorted(paths), fix, of=len(dataset))
    errors: dict[int, DataError] = {}

    def check(position: int) -> None:
        index = opened[position]
        try:
            if isinstance(dataset, SupportsCheckFile):
                dataset.check_file(index)
            if isinstance(dataset, PairedDataset):
                dataset.target(index)
            elif isinstance(dataset, CocoPanoptic) and dataset.provides:
                dataset.segments(index)
        except DataError as error:
            errors[index] = error

    for_each(len(opened), check, "Checking files")
    errors = {index: errors[index] for index in sorted(errors) if index not in missing}
    findings.report_errors(errors.values(), len(opened))
    failed = errors.keys() | missing
    valid = [index for index in opened if index not in failed]
    if isinstance(dataset, PairedDataset):
        _report_pairs(dataset, findings)
    title = "the split cannot be read" if isinstance(dataset, DepthMaps) else "the split has no labels"
    try:
        if isinstance(dataset, LabelMaps):
            _examine_labels(dataset, valid, findings)
        elif isinstance(dataset, DepthMaps):
            _examine_depth(dataset, valid, findings)
        elif dataset.provides and not isinstance(dataset, CocoPanoptic):
            dataset.check_labels()
    except DataError as error:
        if error.rule != MISPLACED:  # counted by `examine_masks`
            findings.report("error", title, [str(error)])
    return failed


def _report_pairs(dataset: PairedDataset, findings: Findings) -> None:
    """Reports images without label files, label files without images, and images that no list names."""
    pairs = dataset.pairs
    findings.report_errors(pairs.missing, pairs.names_count)
    if isinstance(dataset, LabelMaps | DepthMaps):
        lone, count = unlisted_images(Path(dataset.root), dataset.paths, dataset)
        fix = f"A list chooses; if they are meant to be used, add them to {dataset.paths.list_file}."
        findings.report("note", "images in no list", lone, fix, of=count)


def unlisted_images(root: Path, paths: PairPaths, dataset: Dataset) -> tuple[list[str], int]:
    """Returns the images that no list names, and the number of all images, for a folder shared by all splits."""
    if paths.list_file is None or "{split}" in paths.images:
        return [], 0
    suffixes = image_suffixes(dataset.channels)
    lists = matches(root, split_path(paths.list_file, "*"))
    lines = [line.strip() for path in lists for line in read_text(root / path).splitlines() if line.strip()]
    listed = (entry_of(line, paths)[0].lstrip("/") for line in lines)
    names = {os.path.splitext(name)[0] if name.lower().endswith(suffixes) else name for name in listed}
    files = list_files(root, paths.images, suffixes, "images", dataset.channels).items()
    return [path for name, path in files if names.isdisjoint(_name_forms(name, os.path.splitext(path)[0]))], len(files)


def _name_forms(name: str, path: str) -> set[str]:
    """The forms in which a list may name an image: its name, and its path without suffix, relative to any of its
    folders."""
    parts = os.path.normpath(path).split(os.sep)
    return {name, *("/".join(parts[start:]) for start in range(len(parts)))}


def _examine_labels(dataset: LabelMaps, indices: Sequence[int], findings: Findings) -> None:
    """Reports ambiguous values of label maps. Raises DataError if nothing can be learned."""
    shares = dataset.shares(indices)
    if message := shares.ambiguous():
        findings.report("error", "pixels of 255 that may be a class", [message])
    else:
        dataset.check_shares(shares)


def _examine_depth(dataset: DepthMaps, indices: Sequence[int], findings: Findings) -> None:
    """Reports the depth range. Raises DataError without known depth."""
    names = [os.fsdecode(name) for name in dataset.pairs.unlabelled]
    findings.report("note", "images without a depth map", names, of=len(dataset) + len(names))
    seen, is_known = dataset.measured_range(indices)
    findings.report("note", "depth", [depth_range.described(seen, dataset.values, len(dataset))])
    if message := depth_range.implausible(dataset.split, seen, dataset.values, dataset.expected):
        findings.report("error", "implausible depth", [message])
    if not is_known:
        dataset.check_labels()
