"""Probes a frozen backbone: encodes the training images, fits, encodes the validation images, scores."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densevit import config as configs
from densevit.config import Config
from densevit.data.channel_statistics import with_channels
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.data.split_overlap import check_overlap
from densevit.errors import ConfigError, DataError, DensevitError
from densevit.evaluation.bootstrap import bootstrap_intervals
from densevit.evaluation.metric_order import error_metrics
from densevit.inference.model_loading import device_of
from densevit.interfaces import Backbone, Batch, Evaluator, image_id
from densevit.model import DenseModel, build_from_sections, classes_by_head
from densevit.training.loop.data_checks import check_channels, check_needs
from densevit.training.loop.device_transfer import on_device
from densevit.training.loop.evaluator_factory import add_indices, build_evaluators, flat_metrics
from densevit.training.loop.feature_cache import FeatureCache
from densevit.training.run.config_checks import changed_images, check_frozen, check_model, kinds_of_heads
from densevit.weights.pretrained_models import build_pretrained, warn_of
from densevit.weights.resolving import read_files
from densevit_probes.probe import Encode, EncodedImage, Probe
from densevit_probes.protocols import Protocol, Section, backbone_section

RESAMPLES = 300  # of the images, for the intervals of metrics


@dataclass(frozen=True)
class ProbeResult:
    """The scores of a backbone under a protocol.

    metrics: HEAD/METRIC and PROBE/METRIC; None: undefined. intervals: 95 % bootstrap intervals of metrics. main: the
    main metric of each head and probe. error_metrics: those for which lower is better. config: the resolved config,
    without the probes.
    """

    backbone: str
    protocol: str
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    main: tuple[str, ...]
    error_metrics: tuple[str, ...]
    probes: Mapping[str, Section]
    config: Mapping[str, Any]
    seconds: float


def probe(
    backbone: str | Path | Section | nn.Module,
    protocol: str | Protocol,
    data: Section | str | Path | None = None,
    device: str | torch.device = "auto",
) -> ProbeResult:
    """Scores the features of a frozen backbone: fits the probes of a protocol to the training images, and trains its
    heads, if it has any.

    backbone: the name of a shipped section (`dinov2_small`) or of a plugin, a section file, a section; a `Backbone`; or
    a module that gives a map (B, C, h, w) of images (B, 3, H, W), or several, fine to coarse. protocol: a shipped one's
    name (`quick`), a file, or a `Protocol`. data: keys of the protocol's section `data` to replace, {"root": ...}, or a
    section file.

    Example:
        >>> result = densevit.probe("pixels", "quick", {"train_length": 20, "val_length": 10})
        >>> result.main[0], len(result.intervals["knn/mIoU"])
        ('segmentation/mIoU', 2)
    """
    if not isinstance(protocol, Protocol):
        keys = data.items() if isinstance(data, Mapping) else ()
        overrides = [f"data={data}"] if isinstance(data, str | Path) else {f"data.{key}": x for key, x in keys}
        protocol = Protocol.read(protocol, overrides)
    name, module = type(backbone).__name__, None
    section: Section = {"name": "pixels"}  # the place of a module
    if isinstance(backbone, nn.Module):
        from densevit_probes.module_backbone import ModuleBackbone  # late: for other backbones it is not needed

        copied = copy.deepcopy(backbone)
        module = copied if isinstance(copied, Backbone) else ModuleBackbone(copied)
    elif isinstance(backbone, Mapping):
        name, section = str(backbone.get("name")), backbone
    else:
        name, section = backbone_section(str(backbone))
    start, config = time.perf_counter(), protocol.config(section)
    splits = build_data(config)
    probes = protocol.build_probes(splits.train)
    _check(config, splits, probes)
    encoded = bool(config.heads and protocol.freeze and not changed_images(config, splits))
    if config.heads and not encoded:
        model = _trained(config, f"{protocol.name}-{name}", module)
    else:
        model = _built(config, splits, module)
    model.to(device_of(device)).eval()
    evaluators = _evaluated(model, config, splits.padded_to(model.multiple), probes, encoded)
    metrics = flat_metrics({name: evaluator.metrics() for name, evaluator in evaluators.items()})
    intervals = {
        f"{name}/{metric}": bounds
        for name, evaluator in evaluators.items()
        for metric, bounds in bootstrap_intervals(evaluator, RESAMPLES, np.random.default_rng(0)).items()
        if "/" not in metric and bounds[0] == bounds[0]
    }
    return ProbeResult(
        backbone=name,
        protocol=protocol.name,
        metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        intervals=intervals,
        main=tuple(f"{name}/{evaluator.main}" for name, evaluator in evaluators.items()),
        error_metrics=tuple(error_metrics(evaluators)),
        probes=protocol.probes,
        config=config.model_dump(),
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def _evaluated(
    model: DenseModel, config: Config, data: DataSplits, probes: Mapping[str, Probe], encoded: bool
) -> dict[str, Evaluator]:
    """The evaluators of heads and probes, with the validation images.

    encoded: whether the heads are trained here, on the features of the training images.
    """
    evaluators = build_evaluators(model, config, data.val)
    evaluators |= {name: probe.evaluator(probe.classes) for name, probe in probes.items()}
    device, ids = model.mean.device, dict[int | str, int]()
    model.cache = _LastBatch(model.cache or model.backbone)

    def encode(batch: Batch) -> list[Tensor]:
        return [x.float() for x in model.encode(batch, ()).features]

    _fit(model, config, data, probes, encode, encoded)
    for batch in data.val_loader():
        batch = on_device(batch, device)
        predictions = model.infer(batch, {})
        images = _read(probes, encode, batch)[1]
        for i, target in enumerate(batch["targets"]):
            size = tuple(map(int, target["original_size"]))
            truth = {**target["truth"], "size": size, "original_size": size}
            add_indices(ids, [(image_id(truth), target["dataset_index"])])
            for name, evaluator in evaluators.items():
                if name not in probes:
                    evaluator.update([predictions[name][i]], [truth])
                elif all(key in truth for key in probes[name].needs):
                    on_its_device = {key: truth[key].to(device) for key in probes[name].needs}
                    prediction, expected = probes[name].scored(images[name][i], {**truth, **on_its_device})
                    evaluator.update([prediction], [expected])
    return evaluators


def _fit(
    model: DenseModel, config: Config, data: DataSplits, probes: Mapping[str, Probe], encode: Encode, heads: bool
) -> None:
    """Fits the probes to the training images, each once, in the order of the data set; and the heads, if `heads`."""
    fitted = {name: probe for name, probe in probes.items() if probe.needs}
    images: dict[int | str, tuple[int, dict[str, Any]]] = {}  # by image id: a mix repeats images under other indices
    samples: dict[int, EncodedImage] = {}
    for batch in data.unaugmented_train_loader() if fitted or heads else ():
        targets, batch = batch["targets"], on_device(batch, model.mean.device)
        maps, features = _read(fitted, encode, batch)
        canvas = (batch["images"].shape[-2], batch["images"].shape[-1])
        for i, target in enumerate(targets):
            images[target["image_id"]] = (target["dataset_index"], {name: x[i] for name, x in features.items()})
            if heads:
                kept = {key: value for key, value in target.items() if key != "truth"}
                samples[target["dataset_index"]] = EncodedImage([x[i].cpu() for x in maps], kept, canvas)
    ordered = [by_probe for _, by_probe in sorted(images.values(), key=lambda image: image[0])]
    for name, probe in fitted.items():
        try:
            probe.fit([by_probe[name] for by_probe in ordered])
        except DensevitError as error:
            raise DataError(f"probes.{name}: {error}") from None
    if heads:
        from densevit_probes.heads import train_heads  # late: probes alone do not need it

        train_heads(model, samples, data, config)


def _read(probes: Mapping[str, Probe], encode: Encode, batch: Batch) -> tuple[list[Tensor], dict[str, list[Any]]]:
    """The maps of a batch, which is encoded once, and what each probe reads of its images."""
    maps = encode(batch)
    images = {
        name: probe.features(lambda other: maps if other is batch else encode(other), batch)
        for name, probe in probes.items()
    }
    return maps, images


class _LastBatch:
    """The maps of images, which are kept for the next call with equal images: heads and probes read the same batch."""

    def __init__(self, encode: Callable[[Tensor], list[Tensor]]) -> None:
        self.encode, self.images = encode, torch.empty(0)
        self.maps: list[Tensor] = []

    def __call__(self, images: Tensor) -> list[Tensor]:
        if not (images.shape == self.images.shape and torch.equal(images, self.images)):
            self.images, self.maps = images, [x.contiguous() for x in self.encode(images)]
        return self.maps


def _check(config: Config, data: DataSplits, probes: Mapping[str, Probe]) -> None:
    """Checks the config and the data as in a training."""
    (configs.check_plugins if config.heads else configs.check_evaluation_plugins)(config)
    check_frozen(config)
    data.check_splits(bool(config.heads) or any(probe.needs for probe in probes.values()))
    check_needs(kinds_of_heads(config), data)
    check_overlap(data)


def _built(config: Config, data: DataSplits, backbone: Backbone | None) -> DenseModel:
    """The model, with the seed's heads. backbone: replaces the config's backbone if it is given."""
    config = with_channels(config, data.train)
    classes = classes_by_head(config, data.train)
    torch.manual_seed(config.seed)
    if backbone is None:
        model, loaded = build_pretrained(config, classes, read_files(config))
        warn_of(loaded, stacklevel=3)
    else:
        model = build_from_sections(config, classes, backbone=backbone)
    check_channels(data.train, model)
    check_model(config, data, model)
    if config.backbone.cache is not None:
        model.cache = FeatureCache(model, config.backbone.cache, len(data.train) + len(data.val))
    return model


def _trained(config: Config, name: str, backbone: Backbone | None) -> DenseModel:
    """The model of a training, which needs other images in each pass, or changes the backbone."""
    from densevit.training.run.fit import fit  # late: it imports Lightning

    if backbone is not None:
        raise ConfigError("this protocol trains a model. Fix: name the backbone as module:Class, or by a section file.")
    return fit(config, name=name).model
