"""Checks of the statistics of splits: findings about classes, sizes, duplicates and leakage."""

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, islice

import numpy as np

from densevit.channels import FULL_RANGES
from densevit.data.datasets.depth_range import other_units
from densevit.data.duplicate_images import HashedImage
from densevit.errors import listed
from densevit.grouping import grouped
from densevit_workbench.doctor.duplicate_images import identical, nearly_identical
from densevit_workbench.doctor.findings import REPLACE, Finding, Findings, Severity
from densevit_workbench.doctor.split_statistics import ClassCounts, SplitStatistics
from densevit_workbench.doctor.target_measures import KNOWN_VALUES

SHORT, MANY_TIMES = 4, 10  # letters of names that may differ in a letter; ratio of the counts of two such classes
RARE = 10  # objects: a class with fewer is hardly learned
IMBALANCE = 100.0  # ratio of the most and the least frequent class
LONG = 4.0  # ratio of an image's sides
SATURATED, CLIPPED = 0.01, 0.05  # shares of an image's pixels
TINY = 8.0  # pixels of the model's input
OTHER_SIZE = 4.0  # ratio of the objects' sizes in two splits
_MOST_PAIRS = 1000
CORRECT = "Correct the values or data.transforms: training would stop at these images."


def check_split(split: SplitStatistics, findings: Findings, conversion: str) -> None:
    """Reports unusual properties of one split. conversion: the command that converts the data set to a new folder."""
    problems = [summary.problem for summary in split.summaries]
    wrong = [text for summary in split.summaries for text in summary.wrong]
    failures = [summary.failure for summary in split.summaries]
    for title, texts, fix, of in (
        ("unreadable images", problems, REPLACE, split.opened),
        ("invalid samples", wrong, "Correct the data set's values.", split.opened),
        ("images on which the training transform fails", failures, CORRECT, None),
    ):
        findings.report("error", title, [*filter(None, texts)], fix, of=of)
    _classes(split, findings, conversion)
    _labelled_classes(split, findings)
    _unlike_maps(split, findings)
    _objects(split, findings)
    _channels(split, findings)
    _image_sizes(split, findings)


def _classes(split: SplitStatistics, findings: Findings, conversion: str) -> None:
    for key, classes in split.classes.items():
        _alike_names(split, classes, findings, conversion)
        where = "" if classes.complete else f" in the {split.opened} images that were opened"
        absent = [name for name, count in zip(classes.names, classes.counts, strict=True) if not count]
        in_training = split.split == "train"
        fix = "They cannot be learned. Add images, or remove the classes."
        fix = fix if in_training else "They are not part of the metrics."
        severity = "warning" if in_training and classes.complete else "note"
        title = f"classes without {classes.unit} of {key!r}{where}"
        findings.report(severity, title, absent, fix, of=len(classes.names))  # type: ignore[arg-type]
        present = classes.counts[classes.counts > 0]
        if not in_training or len(present) < 2 or not classes.complete:
            continue
        if classes.unit == "objects":
            pairs = zip(classes.names, classes.counts.tolist(), strict=True)
            rare = [f"{name}: {count}" for name, count in pairs if 0 < count < RARE]
            findings.report("note", f"classes with fewer than {RARE} {classes.unit}", rare, "Add images of them.")
        if present.max() >= IMBALANCE * present.min():
            most, least = classes.names[int(classes.counts.argmax())], np.where(classes.counts, classes.counts, np.inf)
            text = f"{most} {present.max() / present.min():,.0f} times as often as {classes.names[int(least.argmin())]}"
            fix = "data.repeat_factor repeats images of rare classes, if the data set knows the classes of its images."
            findings.report("note", "classes are imbalanced", [f"{key}: {text}"], fix)


def _labelled_classes(split: SplitStatistics, findings: Findings) -> None:
    """Reports where classes are labelled, if not everywhere, and classes without objects in a set of a mix."""
    read = [summary for summary in split.summaries if summary.digest]
    numbers = Counter(name for summary in read for name in summary.labelled or ())
    partly = [summary for summary in read if summary.labelled is not None]
    names = dict.fromkeys(name for classes in split.classes.values() for name in classes.names) if partly else {}
    rest = len(read) - len(partly)
    texts = [f"{name}: in {numbers[name] + rest:,} of {len(read):,} opened images" for name in names]
    findings.report("note", "classes are labelled in some images only", texts)
    counts = defaultdict[str, Counter[str]](Counter)
    for summary in [summary for summary in read if summary.part and summary.labelled is None]:
        for key, objects in summary.counts.items():
            for name, number in zip(split.classes[key].names, objects.tolist(), strict=True):
                counts[name][summary.part] += number
    texts = [
        f"{name}: none in {part}, {max(by_part.values()):,} in {max(by_part, key=by_part.__getitem__)}"
        for name, by_part in counts.items()
        for part, number in by_part.items()
        if not number and any(by_part.values())
    ]
    fix = "If they are not labelled there, set data.sets.SET.labelled_classes to those that are: else they train as "
    findings.report("warning", "classes that a set of the mix has no objects of", texts, fix + "background.")


def _alike_names(split: SplitStatistics, classes: ClassCounts, findings: Findings, conversion: str) -> None:
    """Reports pairs of classes whose names look like two spellings of a name, with the option that merges them."""
    counts = dict(zip(classes.names, classes.counts.tolist(), strict=True))
    by_count = (sorted(pair, key=counts.__getitem__) for pair in alike_names(classes.names))
    pairs = [(a, b) for a, b in by_count if _plain(a) == _plain(b) or counts[b] >= MANY_TIMES * counts[a]]
    texts = [f"{rare} {counts[rare]:,}, {frequent} {counts[frequent]:,}" for rare, frequent in pairs]
    merged = " ".join(shlex.quote(f"--merge={rare}={frequent}") for rare, frequent in pairs)
    fix = "If each pair is one class, give it the values of both in data.classes, as `ids` or `colors`."
    if classes.unit == "objects":
        fix = f"If each pair is one class: {conversion} {merged}"
    if split.split == "train":
        findings.report("warning", "pairs of class names that look alike", texts, fix)


def alike_names(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of names that differ in case, spaces or punctuation, or in a letter if they have four or more."""
    by_form = grouped((form, name) for name in names for form in _forms(name))
    pairs = (pair for alike in by_form.values() for pair in combinations(alike, 2))
    return list(dict.fromkeys(pairs))


def _forms(name: str) -> set[str]:
    """The plain name, and if it is long enough also without one of its letters."""
    plain = _plain(name)
    return {plain, *(plain[:i] + plain[i + 1 :] for i, x in enumerate(plain) if len(plain) >= SHORT and x.isalpha())}


def _plain(name: str) -> str:
    """The letters and digits of a name in lower case."""
    return "".join(filter(str.isalnum, name.lower()))


def _unlike_maps(split: SplitStatistics, findings: Findings) -> None:
    """Reports images with a median depth several times that of the others, as of files in other units."""
    for key in dict.fromkeys(key for summary in split.summaries for key in summary.measures):
        depths = {s.name: s.measures.get(key, {}).get(KNOWN_VALUES, ()) for s in split.summaries}
        medians = {name: float(np.median(numbers)) for name, numbers in depths.items() if len(numbers)}
        findings.report("warning", f"files of {key!r} that may be in other units", other_units(medians))


def _objects(split: SplitStatistics, findings: Findings) -> None:
    if split.objects is not None and len(split.objects):
        empty = np.flatnonzero(split.objects == 0).tolist()
        use = "They train as background."
        if split.split != "train":
            use = "Detections in them are false positives, except in crowds, where they do not count."
        fix = f"{use} Where objects are missing in the annotations, annotate or remove the images."
        opened = {s.index: s.name for s in split.summaries if s.objects is not None}
        places = range(split.images) if len(split.objects) == split.images else list(opened)
        names = [_name(findings.files, split, places[i], opened.get(places[i], f"image {places[i]}")) for i in empty]
        findings.report("note", "images without objects", names, fix, of=len(split.objects))
    pairs = [(s.objects, s.kept) for s in split.summaries if s.objects and s.kept is not None and s.kept >= 0]
    before, after = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    if before and after < 0.5 * before:
        fix = "They are outside of crops, or have no area after resizing. Check data.transforms and data.image_size."
        text = f"{after:,} of {before:,} objects are left after the training transform"
        findings.report("warning", "objects lost in augmentation", [text], fix, before - after, before)
    for key, named in split.inputs.items():
        sides = [numbers for name, numbers in named.items() if name.endswith("(px)") and "area" not in name]
        if len(sides) == 2 and len(sides[0]):
            small = int((np.minimum(*sides) < TINY).sum())
            if small >= 0.1 * len(sides[0]):
                fix = "Raise data.image_size, or train on crops (data.transforms=crop) and predict with windows."
                text = f"{key}: {small / len(sides[0]):.0%} are less than {TINY:g} px wide or high in the model's input"
                findings.report("warning", "objects that are tiny for the model", [text], fix, small, len(sides[0]))


def _channels(split: SplitStatistics, findings: Findings) -> None:
    values = split.channel_values
    if values is None:
        return
    nodata = values.likely_nodata
    top = FULL_RANGES.get(split.channels.dtype, (0.0, 0.0))[1]
    images = [summary.name for summary in split.summaries if summary.channels is not None]
    fixes = (
        "Are these files complete? data.nodata marks pixels without data.",
        "Larger values are lost: scale the values when the images are made.",
        "These values are clipped. Correct data.range, or use data.range=percentile.",
        f"Set data.nodata={nodata:.9g} if this value marks pixels without data.",
    )
    cases = (
        ("constant or empty channels", "is {:g} everywhere", values.low, ~(values.low < values.high)),
        ("saturated channels", f"is {top:g} in {{:.0%}} of pixels", values.saturated, values.saturated > SATURATED),
        ("channels outside of data.range", "in {:.0%} of pixels", values.clipped, values.clipped > CLIPPED),
        ("pixels likely without data", f"is {nodata:g} in {{:.0%}} of pixels", values.missing, values.nodata == nodata),
    )
    for fix, (title, form, numbers, marked) in zip(fixes, cases, strict=True):
        rows = np.flatnonzero(marked.any(axis=1)).tolist()
        texts = [
            [f"{split.channels.names[c]} {form.format(numbers[i, c])}" for c in np.flatnonzero(marked[i])] for i in rows
        ]
        examples = [f"{images[i]}: {listed(image_texts)}" for i, image_texts in zip(rows, texts, strict=True)]
        findings.report("warning", f"images with {title}", examples, fix, of=len(images))


def _image_sizes(split: SplitStatistics, findings: Findings) -> None:
    if not len(split.sizes):
        return
    ratio = split.sizes.max(axis=1) / np.maximum(split.sizes.min(axis=1), 1)
    long = np.flatnonzero(ratio > LONG)
    texts = [f"{split.sizes[i, 1]} x {split.sizes[i, 0]}" for i in long[:5].tolist()]
    fix = "After resizing to the model's input, their short side is very small. Cut them into tiles."
    title = f"images more than {LONG:g} times as long as wide"
    findings.report("note", title, texts, fix, len(long), len(split.sizes))


def check_across_splits(
    statistics: Mapping[str, SplitStatistics], files: Mapping[str, Sequence[str]], findings: Findings
) -> list[Finding]:
    """Reports duplicates within and between splits. files: image files by split, if the data set has files."""
    before = len(findings.items)
    splits = list(statistics)
    for i, split in enumerate(splits):
        for other in splits[i + 1 :]:
            paths = {os.path.normpath(path) for path in files.get(split, ())}
            shared = sorted(paths & {os.path.normpath(path) for path in files.get(other, ())})
            fix = f"Remove them from one split: metrics on {other} would include training images."
            findings.report("error", f"files of {split} that are also in {other}", shared, fix, of=len(paths))
    images = [
        HashedImage(
            split, _name(files.get(split, ()), measured, summary.index, summary.name), summary.digest, summary.bits
        )
        for split, measured in statistics.items()
        for summary in measured.summaries
        if summary.digest
    ]
    groups, pairs = identical(images), list(islice(nearly_identical(images), _MOST_PAIRS))
    cases: tuple[tuple[Severity, str, Sequence[Sequence[HashedImage]], bool, str], ...] = (
        (
            *("error", "identical images in several splits", groups, True),
            "Remove them from one split: metrics would include training images.",
        ),
        (
            *("warning", "identical images in one split", groups, False),
            "Remove all but one: they are weighted several times in training, and their annotations may differ.",
        ),
        (
            *("warning", "nearly identical images in several splits", pairs, True),
            "Check them: copies of another size or quality, or neighbouring video frames, make the metrics too good.",
        ),
        (
            *("note", "nearly identical images in one split", pairs, False),
            "Duplicates teach nothing new; frames of one video teach little.",
        ),
    )
    for severity, title, alike, crosses, fix in cases:
        texts = [_listed(group) for group in alike if _crosses_splits(group) == crosses]
        findings.report(severity, title, texts, fix, of=len(images))
    return findings.items[before:]


def _name(files: Sequence[str], split: SplitStatistics, index: int, name: str) -> str:
    return files[index] if len(files) == split.images else name


def _crosses_splits(group: Sequence[HashedImage]) -> bool:
    return len({image.split for image in group}) > 1


def _listed(group: Sequence[HashedImage]) -> str:
    several = _crosses_splits(group)
    return " = ".join(f"{image.split}: {image.name}" if several else image.name for image in group[:4]) + (
        f" = ... ({len(group)} in all)" if len(group) > 4 else ""
    )


def differing_classes(train: SplitStatistics, val: SplitStatistics) -> list[str]:
    """Messages for target keys that only one split provides."""
    lacking = [key for key in train.provides if key not in val.provides]
    return [f"{train.split} is labelled with {listed(lacking)}, {val.split} is not"] if lacking else []


def differing_sizes(train: SplitStatistics, val: SplitStatistics) -> list[str]:
    """Messages for target keys with different object sizes in the splits, relative to the image."""
    texts = []
    for key, named in train.measures.items():
        sides = named.get("relative side", ()), val.measures.get(key, {}).get("relative side", ())
        if all(map(len, sides)):
            medians = [float(np.median(values)) for values in sides]
            if max(medians) > OTHER_SIZE * min(medians):
                shares = " and ".join(f"{median:.1%}" for median in medians)
                texts.append(f"{key}: the median side is {shares} of the image's in {train.split} and {val.split}")
    return texts
