"""Examines a data set and collects findings."""

import contextlib
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from densevit import registry
from densevit.config import DataSection
from densevit.data.channel_statistics import measured
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_layouts import other_format
from densevit.data.datasets.mapped_classes import class_order
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.loading.dataloader import TransformedDataset
from densevit.data.transforms.sample_resizing import TrainingTransform
from densevit.errors import ConfigError, DataError, DensevitError, one_line, warn_once
from densevit.interfaces import Dataset
from densevit.paths import user_path
from densevit.registry.plugin_options import takes
from densevit_workbench.doctor import checks
from densevit_workbench.doctor.augmented_samples import augmented_samples, both_readings
from densevit_workbench.doctor.channel_examination import proposed_keys
from densevit_workbench.doctor.close_boxes import report_pairs
from densevit_workbench.doctor.coco_examination import examine_coco
from densevit_workbench.doctor.diagnosis import Diagnosis
from densevit_workbench.doctor.file_examination import examine_files
from densevit_workbench.doctor.findings import Finding, Findings, evenly_spaced
from densevit_workbench.doctor.json_records import InvalidRecords, built_without_invalid_records, unwrapped
from densevit_workbench.doctor.mask_examination import all_have_masks
from densevit_workbench.doctor.next_command import next_commands
from densevit_workbench.doctor.source import find_source
from densevit_workbench.doctor.split_statistics import SplitStatistics, split_statistics
from densevit_workbench.doctor.training_cost import training_cost

IMAGES = 500  # to open per split by default

_ORDER = {"error": 0, "warning": 1, "note": 2}


def doctor(
    source: str | Path,
    overrides: Sequence[str] = (),
    images: int | None = IMAGES,
    page: str | Path | None = None,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, title, total: items,
) -> Diagnosis:
    """Examines the data of a config, of a data section or in a folder, and collects its problems as findings.

    source: a config or a shipped config's name, a run, a section file such as configs/data/coco.yaml, or a folder in
    the layout of a data set. overrides: `data.key=value`; any key if the source is a config. images: the number of
    evenly spaced images to open per split; None: all. All annotations are examined. page: an HTML file to write. track:
    shows the progress of a loop, from (items, title, total). Raises ConfigError and DataError if there is nothing to
    examine.

    Example:
        >>> densevit.doctor("~/my_folder", images=2).errors
        []
    """
    if images is not None and images < 1:
        raise ConfigError(f"images is {images}; at least 1 is expected, or None for all.")
    resolved = find_source(source, overrides)
    diagnosis = Diagnosis(resolved.name)
    if resolved.recognised:
        diagnosis.findings.append(Finding("note", "recognised layout", 1, examples=(resolved.recognised,)))
    data = DataSplits(resolved.section, resolved.config.seed if resolved.config else 0, size_divisor=32)
    files: dict[str, list[str]] = {}
    for split in dict.fromkeys(("train", resolved.section.val_split)):
        findings = Findings()
        built = _built(data, split, findings)
        proposal = _proposal(data.section, findings.files) if split == "train" else None
        if proposal is not None:
            resolved = find_source(source, [*overrides, *proposal[0]])
            data = DataSplits(resolved.section, data.seed, data.size_divisor)
            diagnosis.findings.append(proposal[1])
            findings = Findings()
            built = _built(data, split, findings)
        if built is not None:
            _examine_split(data, split, built, images, findings, diagnosis, track)
            files[split] = findings.files
        diagnosis.findings += [replace(finding, split=split) for finding in findings.items]
    findings = Findings()
    _compare(data, diagnosis.splits, files, findings)
    if "train" in diagnosis.splits:
        _augment(data, diagnosis)
        if resolved.config is not None:
            diagnosis.cost = training_cost(resolved.config, data, diagnosis.splits["train"].sizes, findings)
        if resolved.recognised:
            train = unwrapped(data.train)
            masks = isinstance(train, Coco) and all_have_masks(train)
            commands = [*next_commands(resolved.recognised, overrides, diagnosis.splits["train"], masks)]
            findings.report("note", "recipes that can be trained on this data", commands)
    diagnosis.findings += findings.items
    diagnosis.findings.sort(key=lambda finding: (_ORDER[finding.severity], finding.split != "train", finding.split))
    if page is not None:
        diagnosis.write_page(page)
    return diagnosis


def _proposal(section: DataSection, files: Sequence[str]) -> tuple[list[str], Finding] | None:
    """Proposes channels for a section without any, if its images are not 8-bit RGB."""
    if section.given_channels.is_rgb and takes(registry.load("datasets", section.name), "channels"):
        return proposed_keys(files)
    return None


class _Built(NamedTuple):
    """A split before the check of its files. invalid: skipped records of its json."""

    dataset: Dataset
    invalid: InvalidRecords


def _built(data: DataSplits, split: str, findings: Findings) -> _Built | None:
    """Builds a split and reports its problems; None if it cannot be read."""
    section = data.section.model_copy(update={"on_error": "skip"})
    with _reported_warnings(findings):
        dataset, invalid = built_without_invalid_records(section, split, findings)
    if dataset is not None and not len(dataset):
        findings.report("error", "the split cannot be read", ["the data set has no images."])
    if dataset is None or not len(dataset):
        return None
    if isinstance(dataset, MeasuredImages):
        findings.files = [dataset.path(index) for index in range(len(dataset))]
    data.use_split("train" if split == "train" else "val", dataset)
    return _Built(dataset, invalid)


@contextlib.contextmanager
def _reported_warnings(findings: Findings) -> Iterator[None]:
    """Reports the warnings of a block, except those that other findings count."""
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    texts = [text for text in texts if "iscrowd" not in text and "data.on_error: skip" not in text]
    findings.report("warning", "warnings of the data set", texts)


def _examine_values(dataset: Dataset, data: DataSplits, findings: Findings) -> None:
    """Reports what the start of a run says of the values of a few samples, unless errors are reported already."""
    with _reported_warnings(findings):
        try:
            TransformedDataset(dataset, data.val_transform, False, on_error="skip").check_values()
        except Exception as error:  # DataError, or whatever a third party's data set raises
            if all(finding.severity != "error" for finding in findings.items):
                findings.report("error", "values with which a run stops", [one_line(error)])


def _examine_split(
    data: DataSplits,
    split: str,
    built: _Built,
    images: int | None,
    findings: Findings,
    diagnosis: Diagnosis,
    track: Callable[[Iterable[Any], str, int], Iterable[Any]],
) -> None:
    """Checks the files of a split, measures it and adds its findings."""
    dataset, source = built.dataset, unwrapped(built.dataset)
    opened = evenly_spaced(len(dataset), images).tolist()
    failed = examine_files(source, opened, findings)
    if isinstance(source, Coco):
        inventories, readings = examine_coco(source, data.section, split, built.invalid, opened, failed, findings)
        diagnosis.inventories[split] = inventories
        diagnosis.readings += both_readings(readings, dataset)
    if split == "train" and dataset.conversion:
        findings.report("note", "data set in another format", [dataset.conversion])
    if split != "train" and dataset.division:
        _join_parts(findings, diagnosis)
        findings.report("note", "the data set has no val split", [dataset.division])
    transform = _transform(data, findings) if split == "train" else None
    statistics = split_statistics(split, dataset, images, failed, transform, track)
    diagnosis.splits[split] = statistics
    if split == "train" and not dataset.channels.is_rgb:
        try:
            statistics.channels = measured(dataset).channels
        except DataError as error:
            findings.report("error", "the channels cannot be normalised", [str(error)])
        if not data.section.given_channels.is_rgb and dataset.channels.nodata != data.section.nodata:
            title = "pixels without data by the files' tag GDAL_NODATA"
            findings.report("note", title, [f"value {dataset.channels.nodata:g}"])
    if not isinstance(source, Coco):  # whose boxes are all examined
        pairs = [pair for summary in statistics.summaries for pair in summary.close_boxes]
        report_pairs(findings, pairs, sum(summary.objects or 0 for summary in statistics.summaries))
    checks.check_split(statistics, findings, _conversion(data.section, dataset))
    _examine_values(dataset, data, findings)


def _conversion(section: DataSection, dataset: Dataset) -> str:
    """The command that converts a data set to a new folder in COCO's format."""
    root = str(section.options.get("root") or "SOURCE")
    other = other_format(user_path(root), Coco) if dataset.conversion else None
    return shlex.join(["densevit", "data", "convert", other[0] if other else "coco", root, "NEW_FOLDER"])


def _join_parts(findings: Findings, diagnosis: Diagnosis) -> None:
    """Replaces findings that both parts of a divided data set have, such as findings about its json, by findings of no
    split. findings: those of the part `val`, before its images are opened; those of `train` are in `diagnosis`.
    """
    both = [finding for finding in findings.items if replace(finding, split="train") in diagnosis.findings]
    findings.items = [finding for finding in findings.items if finding not in both]
    general = [replace(finding, split="") for finding in diagnosis.findings]
    diagnosis.findings = [
        joined if joined in both else finding for finding, joined in zip(diagnosis.findings, general, strict=True)
    ]


def _transform(data: DataSplits, findings: Findings) -> TrainingTransform | None:
    """The training transform; None, with a finding, if it cannot be built."""
    try:
        return data.config_transform
    except DensevitError as error:
        findings.report("error", "the augmentation cannot be used", [str(error)])
        return None


def _compare(
    data: DataSplits, splits: Mapping[str, SplitStatistics], files: Mapping[str, Sequence[str]], findings: Findings
) -> None:
    """Adds findings about images in several splits, and about different classes or labels."""
    checks.check_across_splits(splits, files, findings)
    if {"train", data.section.val_split} <= splits.keys():
        try:
            class_order(data.train.classes, data.val.classes, data.section.val_split)
        except DataError as error:
            findings.report("error", "the splits have different classes", [str(error)])
        train, val = splits["train"], splits[data.section.val_split]
        findings.report(
            "warning",
            "only one split is labelled",
            checks.differing_classes(train, val),
            "Label both, or leave the head out.",
        )
        findings.report(
            "warning",
            "the splits have objects of different sizes",
            checks.differing_sizes(train, val),
            "Validate on images like those of the training, of the same source and cut in the same way.",
        )


def _augment(data: DataSplits, diagnosis: Diagnosis) -> None:
    """Draws augmented samples of training images that can be read."""
    summaries = diagnosis.splits["train"].summaries
    valid = [image.index for image in summaries if not (image.problem or image.wrong or image.failure)]
    with contextlib.suppress(DensevitError):  # already reported as a finding
        diagnosis.samples = list(augmented_samples(data.train, data.config_transform, valid))
