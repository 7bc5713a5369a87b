"""Draws augmented training samples with their targets, and rotated photos with both possible readings of boxes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from densevit.data.io.image_names import image_name
from densevit.data.transforms.sample_resizing import TrainingTransform
from densevit.drawing.draw import draw
from densevit.errors import DensevitError
from densevit.interfaces import Dataset, Sample
from densevit.targets.types import TargetTypes
from densevit_workbench.doctor.findings import evenly_spaced
from densevit_workbench.doctor.sample_summaries import transformed

SAMPLES = 12


def augmented_samples(
    dataset: Dataset, transform: TrainingTransform, indices: Sequence[int], count: int = SAMPLES
) -> Iterator[tuple[str, Image.Image]]:
    """Yields drawn images with captions, one per labelled task, for `count` evenly spaced indices."""
    types = TargetTypes.of(dataset)
    for position in evenly_spaced(len(indices), count).tolist():
        index = indices[position]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sample = transformed(transform, dataset[index], index, types)
            for task, pixels in drawings(sample, dataset, types):
                caption = image_name(dataset, index, sample["targets"].get("image_id", index))
                yield f"{caption}{', ' if task else ''}{task}", Image.fromarray(pixels)
        except DensevitError:  # already a finding
            continue


def both_readings(
    readings: Sequence[tuple[str, Mapping[str, Sample]]], dataset: Dataset
) -> Iterator[tuple[str, Image.Image]]:
    """Yields images with ambiguous boxes, both readings side by side, with captions."""
    types = TargetTypes.of(dataset)
    for name, samples in readings:
        drawn = [pixels for sample in samples.values() for _, pixels in drawings(sample, dataset, types)]
        gap = max(drawn[0].shape) // 50
        width = sum(image.shape[1] + gap for image in drawn) - gap
        canvas = Image.new("RGB", (width, max(image.shape[0] for image in drawn)), "white")
        left = 0
        for pixels in drawn:
            canvas.paste(Image.fromarray(pixels), (left, 0))
            left += pixels.shape[1] + gap
        yield f"{name}: {', '.join(samples)}", canvas


def drawings(sample: Sample, dataset: Dataset, types: TargetTypes) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each task with a visualization of its targets; the task of keys without a task is ""."""
    targets = sample["targets"]
    tasks: dict[str, dict[str, Any]] = {}
    for key, value in targets.items():
        if key in types and not types[key].truth_only:
            tasks.setdefault(types[key].task or "", {})[key] = value
    height, width = targets["size"]
    image = sample["image"][:, :height, :width]  # without padding
    for task, values in tasks.items():
        classes = dataset.classes.get(task, ())
        yield task, draw(image, values, classes, threshold=0.0, types=types, channels=dataset.channels)
