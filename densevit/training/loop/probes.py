"""The probes of a run: building them, and fitting them to the training images."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from densevit import registry
from densevit.config import Config
from densevit.errors import ConfigError, DataError, DensevitError, listed
from densevit.evaluation.feature_probes import FEATURE, Encode, FeatureProbe
from densevit.interfaces import Batch, Dataset, Predictions
from densevit.losses.distributed import gather_objects, process_count
from densevit.model import DenseModel


def build_probes(config: Config, dataset: Dataset) -> dict[str, FeatureProbe]:
    """Builds the evaluators of the section `probes`. dataset: the validation split.

    Raises ConfigError if the data lacks a probe's labels, or a probe has a head's name.
    """
    probes: dict[str, FeatureProbe] = {}
    for name, section in config.probes.items():
        if name in (*config.heads, "method"):
            raise ConfigError(f"probes.{name}: a head or the method has this name too. Fix: rename the probe.")
        evaluator_name, where = section.name or name, f"probes.{name}"
        probe_type = registry.load("evaluators", evaluator_name)
        if not issubclass(probe_type, FeatureProbe):
            raise ConfigError(
                f"probes.{name}: the evaluator {evaluator_name!r} is not a FeatureProbe. Fix: knn or linear_probe."
            )
        missing = [key for key in probe_type.needs if key not in dataset.provides]
        classes = () if probe_type.task is None else dataset.classes.get(probe_type.task, ())
        if missing or (probe_type.task is not None and not classes):
            labels = listed(missing) or f"classes of the task {probe_type.task}"
            raise ConfigError(
                f"probes.{name} ({evaluator_name}): the data set {config.data.name!r} has no {labels}. Fix: use a data "
                "set with these labels, or remove the probe."
            )
        probes[name] = registry.create("evaluators", evaluator_name, classes, options=section.options, where=where)
    return probes


def encoder(model: DenseModel) -> Encode:
    """The model's feature maps of a batch, without gradients."""

    @torch.no_grad()
    def encode(batch: Batch) -> list[Tensor]:
        return [x.float() for x in model.encode(batch, ()).features]

    return encode


def probe_predictions(probes: Mapping[str, FeatureProbe], encode: Encode, batch: Batch) -> dict[str, list[Predictions]]:
    """The predictions that probes read, by probe: `feature` of each image."""
    once = remembered(encode)
    return {name: [{FEATURE: feature} for feature in probe.features(once, batch)] for name, probe in probes.items()}


def fit_probes(probes: Mapping[str, FeatureProbe], batches: Iterable[Batch], encode: Encode) -> None:
    """Fits the probes to the training images of all processes, each once, in the order of the data set.

    batches: this process's batches, as in evaluation, with `dataset_index` and `truth`.
    """
    fitted = {name: probe for name, probe in probes.items() if probe.needs}
    images: dict[int | str, tuple[int, dict[str, Any]]] = {}  # by image id: a mix repeats images under other indices
    once, device = remembered(encode), torch.device("cpu")
    for batch in batches if fitted else ():
        features, device = {name: probe.features(once, batch) for name, probe in fitted.items()}, batch["images"].device
        for i, target in enumerate(batch["targets"]):
            images[target["image_id"]] = (target["dataset_index"], {name: x[i] for name, x in features.items()})
    if process_count() > 1:
        parts = gather_objects(tree_map_only(Tensor, lambda x: x.cpu(), images))
        images = tree_map_only(
            Tensor, lambda x: x.to(device), {k: image for part in parts for k, image in part.items()}
        )
    ordered = [by_probe for _, by_probe in sorted(images.values(), key=lambda image: image[0])]
    for name, probe in fitted.items():
        try:
            probe.fit([by_probe[name] for by_probe in ordered if by_probe[name] is not None])
        except DensevitError as error:
            raise DataError(f"probes.{name}: {error}") from None


def remembered(encode: Encode) -> Encode:
    """`encode`, with the maps of the last batch kept, for all probes of one batch."""
    last: list[Any] = [None, []]

    def encode_once(batch: Batch) -> list[Tensor]:
        if last[0] is not batch["images"]:
            last[:] = batch["images"], encode(batch)
        maps: list[Tensor] = last[1]
        return maps

    return encode_once
