"""Draws augmented samples with their targets, as the model sees them in training, and both readings of photos."""

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
from densevit_workbench.doctor.samples import transformed

SAMPLES = 12


def augmented_samples(
    dataset: Dataset, transform: TrainingTransform, indices: Sequence[int], count: int = SAMPLES
) -> Iterator[tuple[str, Image.Image]]:
    """Yields `count` drawn images with captions, evenly spaced among these indices, one for each labelled task."""
    types = TargetTypes.of(dataset)
    for place in evenly_spaced(len(indices), count).tolist():
        index = indices[place]
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
    """Yields images whose boxes can be read in two ways, drawn side by side, with captions."""
    types = TargetTypes.of(dataset)
    for name, samples in readings:
        drawn = [pixels for one in samples.values() for _, pixels in drawings(one, dataset, types)]
        gap = max(drawn[0].shape) // 50
        width = sum(one.shape[1] + gap for one in drawn) - gap
        canvas = Image.new("RGB", (width, max(one.shape[0] for one in drawn)), "white")
        left = 0
        for pixels in drawn:
            canvas.paste(Image.fromarray(pixels), (left, 0))
            left += pixels.shape[1] + gap
        yield f"{name}: {', '.join(samples)}", canvas


def drawings(sample: Sample, dataset: Dataset, types: TargetTypes) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each task with a visualization of its targets, drawn by their types. Keys without a task have task ""."""
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
