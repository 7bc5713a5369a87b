"""The rows of a diagnosis' tables, for the terminal and the page."""

from collections.abc import Mapping, Sequence

import numpy as np

from densevit_workbench.doctor.split_statistics import ClassCounts, SplitStatistics
from densevit_workbench.doctor.training_cost import TrainingCost
from densevit_workbench.interchange.inventory import Inventory

SPLIT_COLUMNS = ("split", "images", "opened", "labelled with", "size (w x h)", "objects")
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
MEASURE_COLUMNS = ("split", "target", "number", *QUANTILES)

CHANNEL_COLUMNS = ("split", "channel", "least", "most", "mean", "std", "without data", "range")
INVENTORY_COLUMNS = ("split", "kind", "found", "used", "left out", "reason")

Splits = Mapping[str, SplitStatistics]
Inventories = Mapping[str, Sequence[Inventory]]


def split_rows(splits: Splits) -> list[tuple[str, ...]]:
    """A row for each split."""
    return [
        (
            split,
            f"{statistics.images:,}",
            "all" if statistics.opened == statistics.images else f"{statistics.opened:,}",
            ", ".join(statistics.provides) or "nothing",
            size_text(statistics.sizes),
            ""
            if statistics.objects is None or not len(statistics.objects)
            else f"{statistics.objects.mean():.1f} per image",
        )
        for split, statistics in splits.items()
    ]


def channel_rows(splits: Splits) -> list[tuple[str, ...]]:
    """A row per split and channel, except for 8-bit RGB. Statistics are over pixels with data; range: the values that
    the model maps to 0 and 1."""
    ranges = next((statistics.channels.range for statistics in splits.values()), ())
    rows = []
    for split, statistics in splits.items():
        values = statistics.channel_values
        if values is not None:
            weights = values.valid + 1e-12
            mean, square = (np.average(numbers, axis=0, weights=weights) for numbers in (values.mean, values.square))
            numbers = (np.fmin.reduce(values.low), np.fmax.reduce(values.high), mean, np.sqrt(square - mean**2))
            for i, name in enumerate(statistics.channels.names):
                used = "{:.4g} ... {:.4g}".format(*ranges[i]) if ranges else ""
                texts = [f"{number[i]:.4g}" for number in numbers]
                rows.append((split, name, *texts, f"{1 - values.valid[:, i].mean():.1%}", used))
    return rows


def inventory_rows(inventories: Inventories) -> list[tuple[str, ...]]:
    """A row per inventory of each split, followed by a row per reason for leaving out."""
    rows: list[tuple[str, ...]] = []
    for split, split_inventories in inventories.items():
        for inventory in split_inventories:
            counts = inventory.total, inventory.used, inventory.total - inventory.used
            rows.append((split, inventory.noun, *(f"{count:,}" for count in counts), ""))
            rows += [("", "", "", "", f"{len(names):,}", reason) for reason, names in inventory.skipped.items()]
    return rows


def size_text(sizes: np.ndarray) -> str:
    """The sizes as text, such as "640 x 480" or "480 x 320 to 640 x 640, median 640 x 480"."""
    if not len(sizes):
        return ""
    low, high, median = sizes.min(axis=0), sizes.max(axis=0), np.median(sizes, axis=0)
    if (low == high).all():
        return _wh(low)
    return f"{_wh(low)} to {_wh(high)}, median {_wh(median)}"


def class_rows(splits: Splits) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """A table for each target key with classes: its title "KEY (UNIT)", its splits, and rows of a class and its counts.

    The most frequent class of the first split comes first.
    """
    tables = []
    for key in {key: None for statistics in splits.values() for key in statistics.classes}:
        by_split = {split: statistics.classes[key] for split, statistics in splits.items() if key in statistics.classes}
        first = next(iter(by_split.values()))
        same = [counts for counts in by_split.values() if counts.names == first.names]
        order = np.argsort(-first.counts, kind="stable").tolist()
        rows = [(first.names[i], *(_count_text(counts, i) for counts in same)) for i in order]
        opened = "" if all(counts.complete for counts in same) else " of the images that were opened"
        tables.append((f"{key} ({first.unit}{opened})", tuple(by_split)[: len(same)], rows))
    return tables


def measure_rows(splits: Splits) -> list[tuple[str, ...]]:
    """Quantiles of each measure of the targets, by split, and of augmented training images."""
    rows = []
    for split, statistics in splits.items():
        for where, measures in ((split, statistics.measures), (f"{split}, augm.", statistics.inputs)):
            for key, named in measures.items():
                for name, numbers in named.items():
                    numbers = numbers[np.isfinite(numbers)]
                    if len(numbers):
                        quantiles = np.quantile(numbers, list(QUANTILES.values()))
                        rows.append((where, key, name, *(f"{value:.4g}" for value in quantiles)))
    return rows


def cost_rows(cost: TrainingCost, splits: Splits) -> list[tuple[str, str]]:
    """Names and values of the cost."""
    height, width = cost.size
    return [
        ("parameters", f"{cost.parameters / 1e6:,.2f} M, {cost.trained_parameters / 1e6:,.2f} M trained"),
        ("multiply-adds", f"{cost.multiply_adds / 1e9:,.2f} G for an image of {width} x {height}, without decoding"),
        (
            "training",
            cost.budget.describe(splits["train"].images).removeprefix("budget: ") + ", on one device",
        ),
        ("multiply-adds of the training", f"about {cost.training_multiply_adds / 1e15:,.3g} P, forward and backward"),
    ]


def _count_text(classes: ClassCounts, index: int) -> str:
    count, total = int(classes.counts[index]), int(classes.counts.sum())
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _wh(size: np.ndarray) -> str:
    return f"{size[1]:g} x {size[0]:g}"
