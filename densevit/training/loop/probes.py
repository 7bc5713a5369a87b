"""Image features for the evaluators of `probes`: means of the backbone's coarsest map."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from densevit import registry
from densevit.config import Config
from densevit.errors import ConfigError, DataError
from densevit.evaluation.feature_probes import FeatureProbe
from densevit.interfaces import Batch, Dataset, Predictions
from densevit.layers.pooling import masked_mean
from densevit.losses.distributed import gather_objects, process_count
from densevit.model import DenseModel

_KEY, _TASK = "image_class", "classification"


def build_probes(config: Config, dataset: Dataset) -> dict[str, FeatureProbe]:
    """Builds the evaluators of the section `probes`. dataset: the validation split.

    Raises ConfigError if the data has no image classes, or a probe has a head's name.
    """
    probes: dict[str, FeatureProbe] = {}
    for name, section in config.probes.items():
        if name in (*config.heads, "method"):
            raise ConfigError(f"probes.{name}: a head or the method has this name too. Fix: rename the probe.")
        if _KEY not in dataset.provides or not dataset.classes.get(_TASK):
            raise ConfigError(
                f"probes.{name} classifies images, but the data set {config.data.name!r} has no image classes "
                f"({_KEY}). Fix: use a data set with image classes, such as image_folder; or remove the probe."
            )
        evaluator_name = section.name or name
        classes, where = dataset.classes[_TASK], f"probes.{name}"
        probes[name] = registry.create("evaluators", evaluator_name, classes, options=section.options, where=where)
        if not isinstance(probes[name], FeatureProbe):
            raise ConfigError(
                f"probes.{name}: the evaluator {evaluator_name!r} is not a FeatureProbe. Fix: knn or linear_probe."
            )
    return probes


@torch.no_grad()
def features_of(model: DenseModel, batch: Batch) -> Tensor:
    """Features of images, (B, C) float32."""
    maps = model.encode(batch, ()).features[-1]
    return masked_mean(maps.float(), batch["padding_mask"])


def predictions_of(model: DenseModel, batch: Batch) -> list[Predictions]:
    """The predictions that probes read: `feature` (C,) for each image."""
    return [{"feature": feature} for feature in features_of(model, batch)]


def fit_probes(probes: Iterable[FeatureProbe], batches: Iterable[Batch], features: Callable[[Batch], Tensor]) -> None:
    """Fits the probes to the training images of all processes, each once, in the order of the data set.

    batches: this process's batches, as in evaluation, with `dataset_index` and `truth`. features: computes (B, C) of a
    batch.
    """
    rows: dict[int | str, tuple[Tensor, int, int]] = {}  # by image id: a mix repeats images under other indices
    for batch in batches:
        for feature, target in zip(features(batch), batch["targets"], strict=True):
            label = target.get("truth", {}).get(_KEY)
            if label is not None and int(label) >= 0:
                rows[target["image_id"]] = (feature, int(label), target["dataset_index"])
    if process_count() > 1:
        every = gather_objects({name: (row.cpu(), label, index) for name, (row, label, index) in rows.items()})
        device = next((row.device for row, *_ in rows.values()), torch.device("cpu"))
        rows = {name: (row.to(device), label, index) for each in every for name, (row, label, index) in each.items()}
    if not rows:
        raise DataError("probes: no training image has a class. Fix: label some images, or remove the probes.")
    ordered = sorted(rows.values(), key=lambda row: row[2])
    stacked = torch.stack([row for row, *_ in ordered])
    labels = torch.tensor([label for _, label, _ in ordered], device=stacked.device)
    for probe in probes:
        probe.fit(stacked, labels)
